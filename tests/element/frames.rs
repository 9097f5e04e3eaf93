// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::rig::{FRAME, Rig, SMALL, flat, level, mean};

/// That `n` frames come out in order, each with its own picture, time, duration and offset.
fn n_in_n_out(startup: &str, n: usize) {
    let mut rig = Rig::new(&[("startup", startup)], SMALL);
    rig.push(0..n);
    rig.eos();
    let info = rig.output_info();
    assert_eq!((info.width(), info.height()), (128, 128));
    let output = rig.output();
    assert_eq!(output.len(), n, "{n} frames in, startup={startup}");
    for (i, buffer) in output.iter().enumerate() {
        assert_eq!(buffer.pts(), Some(FRAME * i as u64), "of {n}");
        assert_eq!(buffer.duration(), Some(FRAME));
        assert_eq!(buffer.offset(), i as u64);
        assert_eq!(buffer.size(), info.size());
        let grey = mean(buffer, &info);
        assert!((grey - f64::from(level(i))).abs() < 1.5, "frame {i} of {n} shows {grey}, not {}", level(i));
    }
    assert_eq!(rig.errors(), Vec::<String>::new());
    let stats: gst::Structure = rig.element.property("stats");
    assert_eq!(stats.get::<u64>("frames-in"), Ok(n as u64));
    assert_eq!(stats.get::<u64>("frames-out"), Ok(n as u64));
    assert_eq!(stats.get::<u64>("frames-held"), Ok(0));
    assert_eq!(stats.get::<String>("model-size").as_deref(), Ok("128x128"));
}

#[test]
fn n_frames_in_n_frames_out() {
    // Every remainder of a window, before, at and after the first one; `stream` proves the rest.
    for n in (1..=4).chain(19..=38).chain([61, 130]) {
        n_in_n_out("reference", n);
    }
}

#[test]
fn n_frames_in_n_frames_out_with_low_latency() {
    for n in (1..=22).chain([61]) {
        n_in_n_out("low-latency", n);
    }
}

#[test]
fn no_frames_in_no_frames_out() {
    let mut rig = Rig::new(&[], SMALL);
    rig.eos();
    assert!(rig.output().is_empty());
    assert!(rig.errors().is_empty());
}

#[test]
fn frames_come_out_as_soon_as_their_window_is_complete() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..24);
    assert_eq!(rig.numbers(), Vec::<usize>::new());
    rig.push(24..25);
    assert_eq!(rig.numbers(), (0..21).collect::<Vec<_>>());
    rig.push(25..32);
    assert_eq!(rig.numbers(), Vec::<usize>::new());
    rig.push(32..33);
    assert_eq!(rig.numbers(), (21..29).collect::<Vec<_>>());
    let stats: gst::Structure = rig.element.property("stats");
    assert_eq!(stats.get::<u64>("frames-held"), Ok(4));
    assert_eq!(stats.get::<u64>("windows"), Ok(2));
}

#[test]
fn variable_rates_and_missing_times_survive() {
    let times: Vec<_> = (0..30)
        .map(|i| {
            let ms = gst::ClockTime::from_mseconds;
            let pts = (i % 7 != 3).then_some(ms(i * i * 10 + i));
            let dts = (i % 5 == 0).then_some(ms(i * i * 10));
            let duration = (i % 3 != 1).then_some(ms(5 + i));
            (pts, dts, duration)
        })
        .collect();
    let mut rig = Rig::new(&[("startup", "low-latency")], &SMALL.replace("25/1", "0/1"));
    for (i, &(pts, dts, duration)) in times.iter().enumerate() {
        let mut buffer = rig.frame(i);
        let buffer_ref = buffer.make_mut();
        buffer_ref.set_pts(pts);
        buffer_ref.set_dts(dts);
        buffer_ref.set_duration(duration);
        rig.harness.push(buffer).unwrap();
    }
    rig.eos();
    let output: Vec<_> = rig.output().iter().map(|buffer| (buffer.pts(), buffer.dts(), buffer.duration())).collect();
    assert_eq!(output, times);
}

#[test]
fn flags_belong_to_their_frame() {
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    let marked = |i| i == 3 || i == 11;
    for i in 0..14 {
        let mut buffer = rig.frame(i);
        if marked(i) {
            buffer.make_mut().set_flags(gst::BufferFlags::MARKER | gst::BufferFlags::DROPPABLE);
        }
        rig.harness.push(buffer).unwrap();
    }
    rig.eos();
    for (i, buffer) in rig.output().iter().enumerate() {
        assert_eq!(buffer.flags().contains(gst::BufferFlags::MARKER | gst::BufferFlags::DROPPABLE), marked(i), "{i}");
        assert!(!buffer.flags().contains(gst::BufferFlags::DISCONT) || i == 0, "{i}");
    }
}

#[test]
fn every_kind_of_format_passes_through() {
    for format in ["I420", "NV12", "YUY2", "RGB", "RGBx", "BGRx", "GRAY8", "P010_10LE", "I420_10LE", "v210"] {
        let caps = format!("video/x-raw,format={format},width=54,height=38,framerate=25/1,colorimetry=bt709");
        let caps =
            if format.starts_with("RGB") || format.starts_with("BGR") { caps.replace("bt709", "sRGB") } else { caps };
        let parsed: gst::Caps = caps.parse().unwrap();
        let info = gst_video::VideoInfo::from_caps(&parsed).unwrap();
        let mut rig = Rig::new(&[("startup", "low-latency")], &caps);
        for _ in 0..9 {
            rig.harness.push(flat(&info, 0x66)).unwrap();
        }
        rig.eos();
        let output_info = rig.output_info();
        assert_eq!(output_info.format(), info.format());
        assert_eq!(output_info.colorimetry(), info.colorimetry(), "{format}");
        assert_eq!((output_info.width(), output_info.height()), (108, 76));
        let output = rig.output();
        assert_eq!(output.len(), 9, "{format}");
        // In a flat picture of these formats every byte of a component is alike.
        if format_has_flat_bytes(format) {
            for buffer in output {
                let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(&buffer, &output_info).unwrap();
                let data = frame.plane_data(0).unwrap();
                let mean = data[..100].iter().map(|&n| f64::from(n)).sum::<f64>() / 100.0;
                assert!((mean - f64::from(0x66)).abs() < 3.0, "{format}: {mean}");
            }
        }
        assert!(rig.errors().is_empty(), "{format}");
    }
}

fn format_has_flat_bytes(format: &str) -> bool {
    matches!(format, "I420" | "NV12" | "YUY2" | "RGB" | "GRAY8")
}

#[test]
fn colours_keep_their_channel() {
    for (format, bytes) in [("RGB", 3), ("BGR", 3), ("RGBx", 4), ("xBGR", 4)] {
        let caps = format!("video/x-raw,format={format},width=64,height=64,framerate=25/1");
        let mut rig = Rig::new(&[("startup", "low-latency")], &caps);
        let color = [200, 120, 40, 160];
        let mut pixels = color[..bytes].repeat(64 * 64);
        // The byte that is not used has any value.
        let unused = ["RGBx", "xBGR"].iter().position(|&name| name == format).map(|i| [3, 0][i]);
        if let Some(unused) = unused {
            pixels.iter_mut().skip(unused).step_by(4).for_each(|byte| *byte = 7);
        }
        for _ in 0..3 {
            rig.harness.push(gst::Buffer::from_slice(pixels.clone())).unwrap();
        }
        rig.eos();
        let output = rig.output();
        assert_eq!(output.len(), 3);
        for buffer in output {
            let map = buffer.map_readable().unwrap();
            for byte in (0..bytes).filter(|&byte| Some(byte) != unused) {
                let samples = map.iter().skip(byte).step_by(bytes);
                let mean = samples.map(|&n| f64::from(n)).sum::<f64>() / (128.0 * 128.0);
                assert!((mean - f64::from(color[byte])).abs() < 1.5, "{format}, byte {byte}: {mean}");
            }
        }
    }
}

#[test]
fn strides_and_offsets_of_a_buffer_are_honoured() {
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    let (stride, offset) = (96, 32);
    let mut data = vec![255; offset + stride * 64];
    for row in data[offset..].chunks_mut(stride) {
        row[..64].fill(level(1));
    }
    let mut buffer = gst::Buffer::from_slice(data);
    let (format, flags) = (gst_video::VideoFormat::Gray8, gst_video::VideoFrameFlags::empty());
    gst_video::VideoMeta::add_full(buffer.make_mut(), flags, format, 64, 64, &[offset], &[stride as i32]).unwrap();
    rig.harness.push(buffer).unwrap();
    rig.eos();
    assert_eq!(rig.numbers(), [1]);
}

#[test]
fn the_same_seed_gives_the_same_pictures_and_another_seed_others() {
    let pictures = |seed| {
        let mut rig = Rig::new(&[("seed", seed), ("startup", "low-latency"), ("color-fix", "none")], SMALL);
        rig.push(0..9);
        rig.eos();
        rig.output().iter().map(|buffer| buffer.map_readable().unwrap().to_vec()).collect::<Vec<_>>()
    };
    let first = pictures("1");
    assert_eq!(first, pictures("1"));
    assert_ne!(first, pictures("2"));
}

#[test]
fn memory_stays_flat_over_a_long_stream() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    rig.push(0..100);
    rig.output();
    let before = resident();
    for i in 1..5 {
        rig.push(100 * i..100 * (i + 1));
        rig.output();
    }
    let after = resident();
    // A leak of one output picture per frame would be more than this; other tests run beside this one.
    let stats: gst::Structure = rig.element.property("stats");
    assert!(stats.get::<u64>("frames-held").unwrap() <= 12);
    assert!(after < before + 400 * 128 * 128 * 3 * 4, "{before} bytes before, {after} after");
}
