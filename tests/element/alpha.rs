// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer_video as gst_video;

use crate::rig::{FRAME, Rig, flat};

const FORMATS: [(&str, usize); 4] = [("RGBA", 3), ("BGRA", 3), ("ARGB", 0), ("ABGR", 0)];

fn caps(format: &str, width: usize, height: usize) -> String {
    format!("video/x-raw,format={format},width={width},height={height},framerate=25/1")
}

/// A frame of 4 bytes per pixel, its colours grey, with this alpha at the byte `at`.
fn frame(number: usize, (width, height): (usize, usize), at: usize, alpha: impl Fn(usize, usize) -> u8) -> gst::Buffer {
    let mut data = vec![90; 4 * width * height];
    for (i, pixel) in data.chunks_exact_mut(4).enumerate() {
        pixel[at] = alpha(i % width, i / width);
    }
    let mut buffer = gst::Buffer::from_slice(data);
    buffer.get_mut().unwrap().set_pts(FRAME * number as u64);
    buffer
}

/// The alpha of a frame.
fn alpha(buffer: &gst::BufferRef, at: usize) -> Vec<u8> {
    buffer.map_readable().unwrap().iter().skip(at).step_by(4).copied().collect()
}

/// The alpha of a number of the frame, and no other up to 40.
fn mark(number: usize) -> u8 {
    255 - 5 * number as u8
}

#[test]
fn every_frame_keeps_its_own_alpha_in_order() {
    for (format, at) in FORMATS {
        // Before, at and after the first window, and a part of a window at the end.
        for n in [1, 8, 9, 10, 30] {
            let mut rig = Rig::new(&[("startup", "low-latency")], &caps(format, 53, 37));
            for i in 0..n {
                rig.harness.push(frame(i, (53, 37), at, |_, _| mark(i))).unwrap();
            }
            rig.eos();
            let output = rig.output();
            assert_eq!(output.len(), n, "{format}");
            for (i, buffer) in output.iter().enumerate() {
                assert_eq!(buffer.pts(), Some(FRAME * i as u64));
                assert_eq!(buffer.size(), 4 * 106 * 74);
                assert!(alpha(buffer, at).iter().all(|&sample| sample == mark(i)), "{format}, frame {i} of {n}");
            }
            assert!(rig.errors().is_empty());
        }
    }
}

#[test]
fn opaque_stays_opaque_and_colours_stay() {
    for policy in ["pad", "crop"] {
        for (format, at) in FORMATS {
            let mut rig = Rig::new(&[("startup", "low-latency"), ("size-policy", policy)], &caps(format, 71, 67));
            for i in 0..9 {
                rig.harness.push(frame(i, (71, 67), at, |_, _| 255)).unwrap();
            }
            rig.eos();
            let output = rig.output();
            assert_eq!(output.len(), 9);
            for buffer in output {
                assert!(alpha(&buffer, at).iter().all(|&sample| sample == 255), "{format}");
                let colours = alpha(&buffer, (at + 1) % 4);
                let mean = colours.iter().map(|&n| f64::from(n)).sum::<f64>() / colours.len() as f64;
                assert!((mean - 90.0).abs() < 1.5, "{format}: {mean}");
            }
        }
    }
}

/// A bright stripe that moves by two columns per frame, on a gradient from top to bottom.
fn stripe(number: usize) -> impl Fn(usize, usize) -> u8 {
    move |x, y| if (2 * number..2 * number + 6).contains(&x) { 250 } else { y as u8 }
}

#[test]
fn a_shape_is_scaled_and_stays_with_its_frame() {
    for (policy, crop, size) in [("pad", (0, 0), (142, 135 * 2)), ("crop", (7, 7), (128, 256))] {
        let mut rig = Rig::new(&[("startup", "low-latency"), ("size-policy", policy)], &caps("BGRA", 71, 135));
        for i in 0..14 {
            // An opaque frame in between is kept in another way.
            let opaque = i == 5;
            let shape = stripe(i);
            rig.harness.push(frame(i, (71, 135), 3, |x, y| if opaque { 255 } else { shape(x, y) })).unwrap();
        }
        rig.eos();
        let output = rig.output();
        assert_eq!(output.len(), 14);
        for (i, buffer) in output.iter().enumerate() {
            let alpha = alpha(buffer, 3);
            assert_eq!(alpha.len(), size.0 * size.1);
            if i == 5 {
                assert!(alpha.iter().all(|&sample| sample == 255));
                continue;
            }
            for y in (20..size.1 - 20).step_by(9) {
                let row = &alpha[y * size.0..(y + 1) * size.0];
                let bright: Vec<usize> = (0..size.0).filter(|&x| row[x] > 190).map(|x| x + crop.0).collect();
                // The stripe's two edges, to half a pixel of the input.
                let (first, last) = (4 * i, 4 * i + 11);
                let seen = (bright.first().copied().unwrap_or(0), bright.last().copied().unwrap_or(0));
                assert!(
                    seen.0.abs_diff(first.max(crop.0)) <= 1 && seen.1.abs_diff(last) <= 1,
                    "{policy} {i}: {seen:?}"
                );
                let far = row[size.0 - 1];
                let expected = ((y + crop.1) as f64 + 0.5) / 2.0 - 0.5;
                assert!(
                    (f64::from(far) - expected).abs() <= 1.0,
                    "{policy}, row {y} of frame {i}: {far} for {expected}"
                );
            }
        }
    }
}

#[test]
fn a_flush_leaves_no_alpha_behind() {
    let mut rig = Rig::new(&[("startup", "low-latency")], &caps("RGBA", 64, 64));
    for i in 0..7 {
        rig.harness.push(frame(i, (64, 64), 3, |_, _| 3)).unwrap();
    }
    assert!(rig.harness.push_event(gst::event::FlushStart::new()));
    assert!(rig.harness.push_event(gst::event::FlushStop::new(true)));
    assert!(rig.harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new())));
    rig.harness.push(frame(0, (64, 64), 3, |_, _| 200)).unwrap();
    rig.eos();
    let output = rig.output();
    assert_eq!(output.len(), 1);
    assert!(alpha(&output[0], 3).iter().all(|&sample| sample == 200));
}

#[test]
fn planar_and_deep_alpha_survive() {
    for format in ["A420", "AYUV", "GBRA", "ARGB64_LE", "RGBA64_LE"] {
        let caps = caps(format, 54, 38);
        let parsed: gst::Caps = caps.parse().unwrap();
        let info = gst_video::VideoInfo::from_caps(&parsed).unwrap();
        let mut rig = Rig::new(&[("startup", "low-latency")], &caps);
        for _ in 0..3 {
            rig.harness.push(flat(&info, 0x66)).unwrap();
        }
        rig.eos();
        let info = rig.output_info();
        let output = rig.output();
        assert_eq!(output.len(), 3, "{format}");
        for buffer in output {
            let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &info).unwrap();
            let (at, pixel) = (info.comp_plane(3), info.comp_pstride(3) as usize);
            let data = &frame.plane_data(at).unwrap()[info.comp_poffset(3) as usize..];
            let stride = info.comp_stride(3) as usize;
            let samples = data.chunks(stride).take(76).flat_map(|row| row.iter().step_by(pixel).take(108));
            assert!(samples.copied().all(|sample| sample == 0x66), "{format}");
        }
        assert!(rig.errors().is_empty(), "{format}");
    }
}
