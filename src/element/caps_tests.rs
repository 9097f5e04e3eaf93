// SPDX-License-Identifier: MPL-2.0

use super::*;

use gst::PadDirection::{Sink, Src};

fn pad(scale: f64) -> Scaling {
    Scaling { scale, policy: SizePolicy::Pad }
}

fn crop(scale: f64) -> Scaling {
    Scaling { scale, policy: SizePolicy::Crop }
}

fn caps(sizes: &str) -> gst::Caps {
    gst::init().unwrap();
    format!("video/x-raw, format=I420, {sizes}").parse().unwrap()
}

/// The first structure: the one that follows `scale`.
fn exact(scaling: Scaling, direction: gst::PadDirection, sizes: &str) -> gst::Caps {
    let mut all = scaling.transform(direction, &caps(sizes));
    all.truncate();
    all
}

#[test]
fn a_size_is_scaled_and_halves_round_to_even() {
    assert_eq!(exact(pad(2.0), Sink, "width=53, height=37"), caps("width=106, height=74"));
    assert_eq!(exact(pad(2.5), Sink, "width=83, height=61"), caps("width=208, height=152"));
}

#[test]
fn ranges_and_lists_are_scaled() {
    let given = "width=[16, 1920], height={ (int)10, (int)37, (int)40 }";
    let expected = "width=[32, 3840], height={ (int)20, (int)74, (int)80 }";
    assert_eq!(exact(pad(2.0), Sink, given), caps(expected));
}

#[test]
fn a_huge_range_does_not_overflow() {
    let all = pad(8.0).transform(Sink, &caps("width=[1, 2147483647], height=[1, 2147483647]"));
    assert!(all.is_subset(&caps("width=[1, 2147483647], height=[1, 2147483647]")), "{all}");
    let all = pad(8.0).transform(Src, &caps("width=[1, 2147483647], height=[1, 2147483647]"));
    assert!(all.can_intersect(&caps("width=268435455, height=1")), "{all}");
}

#[test]
fn backwards_only_sizes_that_scale_to_the_output() {
    assert_eq!(exact(pad(2.0), Src, "width=106, height=74"), caps("width=53, height=37"));
    assert_eq!(exact(pad(2.0), Src, "width=[31, 101], height=74"), caps("width=[16, 50], height=37"));
    // No input doubles to 107; another factor reaches it.
    let odd = pad(2.0).transform(Src, &caps("width=107, height=74"));
    assert_eq!(odd.size(), 1, "{odd}");
    assert_eq!(odd, caps("width=[14, 107], height=[10, 74]"));
}

#[test]
fn backwards_finds_every_input_of_a_cropped_size() {
    // 64..=127 double to 128..=254, which is cut to 128.
    assert_eq!(exact(crop(2.0), Src, "width=128, height=256"), caps("width=[64, 127], height=[128, 191]"));
    assert_eq!(exact(crop(2.0), Sink, "width=100, height=150"), caps("width=128, height=256"));
}

#[test]
fn every_factor_from_one_to_eight_is_reachable() {
    let all = pad(2.0).transform(Sink, &caps("width=100, height=50"));
    assert!(all.can_intersect(&caps("width=100, height=50")));
    assert!(all.can_intersect(&caps("width=800, height=400")));
    assert!(!all.can_intersect(&caps("width=801, height=400")));
    assert!(!all.can_intersect(&caps("width=99, height=50")));
}

#[test]
fn other_fields_and_open_sizes_are_kept() {
    let given = caps("width=64, height=64, framerate=30000/1001, pixel-aspect-ratio=16/15, chroma-site=mpeg2");
    let all = pad(2.0).transform(Sink, &given);
    let structure = all.structure(0).unwrap();
    assert_eq!(structure.get::<gst::Fraction>("framerate").unwrap(), gst::Fraction::new(30000, 1001));
    assert_eq!(structure.get::<gst::Fraction>("pixel-aspect-ratio").unwrap(), gst::Fraction::new(16, 15));
    assert_eq!(structure.get::<&str>("chroma-site").unwrap(), "mpeg2");
    let open: gst::Caps = "video/x-raw, format=I420".parse().unwrap();
    assert!(
        pad(2.0).transform(Sink, &open).is_strictly_equal(&"video/x-raw, format=I420".parse::<gst::Caps>().unwrap())
    );
}

#[test]
fn the_scale_picks_the_size_and_downstream_can_overrule_it() {
    let input = caps("width=640, height=480");
    let free = pad(2.0).fixate_output(&input, pad(2.0).transform(Sink, &input));
    assert_eq!(size(&free), Some((1280, 960)));
    let fixed = pad(2.0).fixate_output(&input, caps("width=1920, height=1440"));
    assert_eq!(size(&fixed), Some((1920, 1440)));
}

#[test]
fn a_limit_downstream_keeps_the_shape() {
    let input = caps("width=640, height=480");
    let limited = pad(4.0).fixate_output(&input, caps("width=[1, 1920], height=[1, 1080]"));
    assert_eq!(size(&limited), Some((1440, 1080)));
}

#[test]
fn a_limit_downstream_leaves_a_multiple_to_crop() {
    let input = caps("width=640, height=480");
    let mut limit = crop(4.0).transform(Sink, &input);
    limit = limit.intersect(&caps("width=[1, 1920], height=[1, 1080]"));
    assert_eq!(size(&crop(4.0).fixate_output(&input, limit)), Some((1280, 1024)));
}

#[test]
fn upstream_is_asked_for_the_size_that_scales_to_the_output() {
    let output = caps("width=1280, height=720");
    let input = pad(2.0).fixate_input(&output, pad(2.0).transform(Src, &output));
    assert_eq!(size(&input), Some((640, 360)));
}

#[test]
fn colorimetry_is_named_where_the_larger_size_would_change_it() {
    let input = caps("width=640, height=480, framerate=25/1");
    let output = pad(2.0).fixate_output(&input, pad(2.0).transform(Sink, &input));
    assert_eq!(output.structure(0).unwrap().get::<&str>("colorimetry"), Ok("bt601"));
    let small = caps("width=64, height=48, framerate=25/1");
    let output = pad(2.0).fixate_output(&small, pad(2.0).transform(Sink, &small));
    assert!(!output.structure(0).unwrap().has_field("colorimetry"));
}

#[test]
fn the_geometry_follows_the_scale_or_the_negotiated_size() {
    let input = Size::new(100, 50);
    let followed = pad(2.0).geometry(input, Size::new(200, 100)).unwrap();
    assert_eq!((followed.scaled, followed.output), (Size::new(200, 100), Size::new(200, 100)));
    let cut = crop(3.0).geometry(input, Size::new(256, 128)).unwrap();
    assert_eq!((cut.scaled, cut.crop), (Size::new(300, 150), (22, 11)));
    let insisted = pad(2.0).geometry(input, Size::new(300, 140)).unwrap();
    assert_eq!(insisted.scaled, Size::new(300, 140));
}

#[test]
fn impossible_sizes_are_refused_with_the_reason() {
    let refusal = |scaling: Scaling, input, output| scaling.geometry(input, output).unwrap_err().to_string();
    let small = refusal(pad(2.0), Size::new(100, 100), Size::new(90, 100));
    assert!(small.contains("width") && small.contains("0.900"), "{small}");
    let large = refusal(pad(2.0), Size::new(100, 100), Size::new(200, 801));
    assert!(large.contains("height") && large.contains("8.010"), "{large}");
    let cut = refusal(crop(2.0), Size::new(100, 100), Size::new(130, 130));
    assert!(cut.contains("size-policy=pad"), "{cut}");
    let nothing = refusal(crop(2.0), Size::new(40, 40), Size::new(80, 80));
    assert!(nothing.contains("leaves nothing"), "{nothing}");
    let fail = Scaling { scale: 2.0, policy: SizePolicy::Fail };
    assert!(refusal(fail, Size::new(65, 64), Size::new(130, 128)).contains("size-policy=pad"));
    assert!(fail.geometry(Size::new(64, 64), Size::new(128, 128)).is_ok());
}

#[test]
fn alpha_has_8_or_16_bits() {
    gst::init().unwrap();
    for format in FORMATS {
        let info = gst_video::VideoFormatInfo::from_format(format);
        if info.n_components() > 3 {
            assert!(matches!((info.depth()[3], info.shift()[3]), (8 | 16, 0)), "{format}");
        }
    }
}

#[test]
fn sizes_that_gstreamer_has_no_frames_of_are_not_offered() {
    gst::init().unwrap();
    let grey: gst::Caps = "video/x-raw, format=GRAY8, width=8192, height=8192".parse().unwrap();
    let eight = pad(8.0).transform(Sink, &grey);
    assert!(eight.iter().all(|structure| structure.get::<i32>("width") != Ok(65536)), "{eight}");
    assert_eq!(pad(8.0).unrepresentable(&grey), Some(Size::new(65536, 65536)));
    assert_eq!(pad(7.9).unrepresentable(&grey), None);
    assert!(pad(7.9).transform(Sink, &grey).structure(0).unwrap().get::<i32>("width").is_ok());
    // One of the formats is enough.
    let two: gst::Caps = "video/x-raw, format={ RGBA64_LE, GRAY8 }, width=8192, height=8192".parse().unwrap();
    assert_eq!(pad(7.9).transform(Sink, &two).structure(0).unwrap().get::<i32>("width"), Ok(64717));
    // GStreamer 1.22 computes a size of 18 exabytes, and a stride below 0.
    let wide: gst::Caps = "video/x-raw, format=GRAY8, width=2147483647, height=1".parse().unwrap();
    assert!(pad(1.0).unrepresentable(&wide).is_some());
}
