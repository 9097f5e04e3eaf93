// SPDX-License-Identifier: MPL-2.0

use gst_video::VideoFrameRef;

use super::super::caps::FORMATS;
use super::*;
use crate::upscaler::SizePolicy;

fn info(format: VideoFormat, size: Size) -> VideoInfo {
    gst::init().unwrap();
    VideoInfo::builder(format, size.width as u32, size.height as u32).build().unwrap()
}

/// A frame with this alpha, and another value in every other byte.
fn frame(info: &VideoInfo, alpha: &dyn Fn(usize, usize) -> u16) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    buffer.get_mut().unwrap().map_writable().unwrap().fill(77);
    {
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), info).unwrap();
        let (stride, pixel) = (info.comp_stride(3) as usize, info.comp_pstride(3) as usize);
        let wide = info.comp_depth(3) == 16;
        let data = frame.comp_data_mut(3).unwrap();
        for y in 0..info.height() as usize {
            for x in 0..info.width() as usize {
                let at = y * stride + x * pixel;
                match wide {
                    true => data[at..at + 2].copy_from_slice(&alpha(x, y).to_le_bytes()),
                    false => data[at] = (alpha(x, y) >> 8) as u8,
                }
            }
        }
    }
    buffer
}

/// The alpha of a frame, row by row, as parts of 65535.
fn alpha(info: &VideoInfo, buffer: &gst::BufferRef) -> Vec<Vec<u16>> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let (stride, pixel) = (info.comp_stride(3) as usize, info.comp_pstride(3) as usize);
    let data = frame.comp_data(3).unwrap();
    let sample = |at: usize| match info.comp_depth(3) {
        16 => u16::from_le_bytes([data[at], data[at + 1]]),
        _ => u16::from(data[at]) * 257,
    };
    (0..info.height() as usize)
        .map(|y| (0..info.width() as usize).map(|x| sample(y * stride + x * pixel)).collect())
        .collect()
}

/// The output frame, and the bytes that were kept, of a frame with this alpha.
fn passed(
    format: VideoFormat,
    geometry: Geometry,
    shape: &dyn Fn(usize, usize) -> u16,
) -> (VideoInfo, gst::Buffer, usize) {
    let (input, output) = (info(format, geometry.input), info(format, geometry.output));
    let mut subject = Alpha::new(&input, &output, geometry).unwrap().unwrap();
    let mut carrier = gst::Buffer::new();
    subject.keep(&frame(&input, shape), carrier.get_mut().unwrap()).unwrap();
    let mut buffer = gst::Buffer::with_size(output.size()).unwrap();
    buffer.get_mut().unwrap().map_writable().unwrap().fill(33);
    subject.restore(&carrier, buffer.get_mut().unwrap()).unwrap();
    (output, buffer, carrier.size())
}

fn formats() -> impl Iterator<Item = VideoFormat> {
    gst::init().unwrap();
    FORMATS.into_iter().filter(|&format| gst_video::VideoFormatInfo::from_format(format).n_components() == 4)
}

fn doubled(width: usize, height: usize) -> Geometry {
    Geometry::new(Size::new(width, height), Size::new(2 * width, 2 * height), SizePolicy::Pad).unwrap()
}

#[test]
fn a_format_without_alpha_costs_nothing() {
    let info = info(VideoFormat::Rgbx, Size::new(8, 8));
    assert!(Alpha::new(&info, &info, doubled(8, 8)).unwrap().is_none());
}

#[test]
fn constant_alpha_stays_exact_and_is_kept_as_one_sample() {
    for format in formats() {
        for value in [0, 128 * 257, 254 * 257, u16::MAX] {
            let (info, buffer, kept) = passed(format, doubled(53, 37), &|_, _| value);
            assert!(kept <= 2, "{format}: {kept} bytes");
            assert!(alpha(&info, &buffer).iter().flatten().all(|&sample| sample == value), "{format}, {value}");
        }
    }
}

#[test]
fn only_alpha_is_written() {
    for format in formats() {
        let (info, buffer, _) = passed(format, doubled(53, 37), &|x, _| 257 * x as u16);
        let map = buffer.map_readable().unwrap();
        let bytes = info.width() as usize * info.height() as usize * info.comp_depth(3) as usize / 8;
        let others = map.iter().filter(|&&byte| byte == 33).count();
        // Every byte but those of alpha, of which some happen to have this value too.
        assert!(others >= info.size() - bytes, "{format}: {others} of {}", info.size());
        assert!(others < info.size() - bytes / 2, "{format}: {others} of {}", info.size());
    }
}

#[test]
fn the_same_size_keeps_every_sample() {
    let size = Size::new(53, 37);
    let geometry = Geometry::new(size, size, SizePolicy::Pad).unwrap();
    for format in formats() {
        let shape = |x: usize, y: usize| 257 * ((7 * x + 13 * y) % 256) as u16;
        let (info, buffer, _) = passed(format, geometry, &shape);
        let expected: Vec<Vec<u16>> = (0..37).map(|y| (0..53).map(|x| shape(x, y)).collect()).collect();
        assert_eq!(alpha(&info, &buffer), expected, "{format}");
    }
}

#[test]
fn strides_of_a_buffer_are_honoured() {
    let size = Size::new(5, 3);
    let geometry = Geometry::new(size, size, SizePolicy::Pad).unwrap();
    let info = info(VideoFormat::Rgba, size);
    let mut subject = Alpha::new(&info, &info, geometry).unwrap().unwrap();
    // Rows of 5 pixels, and then 3 that are not part of the picture.
    let mut padded = gst::Buffer::from_slice((0..3 * 8 * 4).collect::<Vec<u8>>());
    let flags = gst_video::VideoFrameFlags::empty();
    let meta = padded.get_mut().unwrap();
    gst_video::VideoMeta::add_full(meta, flags, VideoFormat::Rgba, 5, 3, &[0], &[32]).unwrap();
    let mut carrier = gst::Buffer::new();
    subject.keep(&padded, carrier.get_mut().unwrap()).unwrap();
    subject.restore(&carrier, padded.get_mut().unwrap()).unwrap();
    let mut plain = gst::Buffer::with_size(info.size()).unwrap();
    subject.restore(&carrier, plain.get_mut().unwrap()).unwrap();
    let expected: Vec<Vec<u16>> = (0..3).map(|y| (0..5).map(|x| 257 * (32 * y + 4 * x + 3)).collect()).collect();
    assert_eq!(alpha(&info, &plain), expected);
    assert!(padded.map_readable().unwrap().iter().copied().eq(0..96), "nothing else is touched");
}

#[test]
fn one_sample_that_differs_is_seen() {
    let size = Size::new(5, 3);
    let geometry = Geometry::new(size, size, SizePolicy::Pad).unwrap();
    for at in [(0, 0), (4, 0), (2, 1), (4, 2)] {
        // The low byte of 16 bits alone differs.
        let shape = |x, y| if (x, y) == at { 0xfffe } else { 0xffff };
        let (info, buffer, kept) = passed(VideoFormat::Rgba64Le, geometry, &shape);
        assert!(kept > 2);
        assert_eq!(alpha(&info, &buffer)[at.1][at.0], 0xfffe);
    }
}

#[test]
fn a_gradient_is_resized_around_the_centres_of_pixels() {
    for format in formats() {
        let (info, buffer, _) = passed(format, doubled(53, 37), &|x, y| 257 * (2 * x + 3 * y + 20) as u16);
        for (y, row) in alpha(&info, &buffer).iter().enumerate().skip(4).take(66) {
            for (x, &sample) in row.iter().enumerate().skip(4).take(98) {
                let at = |n: usize| (n as f64 + 0.5) / 2.0 - 0.5;
                let expected = 257.0 * (2.0 * at(x) + 3.0 * at(y) + 20.0);
                assert!((f64::from(sample) - expected).abs() <= 260.0, "{format} at {x},{y}: {sample} for {expected}");
            }
        }
    }
}

#[test]
fn flat_parts_stay_flat_beside_an_edge() {
    let (info, buffer, _) = passed(VideoFormat::Rgba, doubled(40, 40), &|x, _| if x < 20 { 0 } else { u16::MAX });
    for row in alpha(&info, &buffer) {
        assert!(row[..36].iter().all(|&sample| sample == 0), "{row:?}");
        assert!(row[44..].iter().all(|&sample| sample == u16::MAX), "{row:?}");
        assert!(row.windows(2).all(|pair| pair[0] <= pair[1]), "no ringing: {row:?}");
    }
}

#[test]
fn the_filter_is_the_cubic_that_passes_through_its_samples() {
    let (info, buffer, _) =
        passed(VideoFormat::Rgba64Le, doubled(40, 40), &|x, _| if x == 20 { 0x8000 } else { 0x4000 });
    let weights: Vec<f64> =
        (0..4).map(|i| (f64::from(alpha(&info, &buffer)[40][41 + i]) - 16384.0) / 16384.0).collect();
    // Keys' kernel, a = -0.5, at 0.25, 0.75, 1.25 and 1.75 pixels.
    for (got, expected) in weights.iter().zip([0.8672, 0.2266, -0.0703, -0.0234]) {
        assert!((got - expected).abs() < 0.002, "{weights:?}");
    }
}

#[test]
fn a_crop_shows_the_part_that_the_colours_show() {
    let geometry = Geometry::new(Size::new(70, 135), Size::new(140, 270), SizePolicy::Crop).unwrap();
    assert_eq!((geometry.crop, geometry.output), ((6, 7), Size::new(128, 256)));
    let left = |x: usize, _| 257 * x as u16;
    let (info, buffer, _) = passed(VideoFormat::Argb, geometry, &left);
    let row = &alpha(&info, &buffer)[100];
    for (x, &sample) in row.iter().enumerate() {
        let expected = ((x + 6) as f64 + 0.5) / 2.0 - 0.5;
        assert!((f64::from(sample) / 257.0 - expected).abs() <= 1.0, "{x}: {sample}");
    }
    let (info, buffer, _) = passed(VideoFormat::Argb, geometry, &|_, y| 257 * y as u16);
    for (y, row) in alpha(&info, &buffer).iter().enumerate() {
        let expected = ((y + 7) as f64 + 0.5) / 2.0 - 0.5;
        assert!((f64::from(row[64]) / 257.0 - expected).abs() <= 1.0, "{y}: {}", row[64]);
    }
}

#[test]
fn a_carrier_that_is_too_small_is_refused() {
    let geometry = doubled(40, 40);
    let (input, output) = (info(VideoFormat::Rgba, geometry.input), info(VideoFormat::Rgba, geometry.output));
    let mut subject = Alpha::new(&input, &output, geometry).unwrap().unwrap();
    let mut buffer = gst::Buffer::with_size(output.size()).unwrap();
    let refused = subject.restore(&gst::Buffer::with_size(100).unwrap(), buffer.get_mut().unwrap());
    assert!(matches!(refused, Err(Failure::Map(_))));
}
