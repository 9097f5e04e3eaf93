// SPDX-License-Identifier: MPL-2.0

use super::*;

/// A picture of one colour in this format, as the writer makes it from RGB.
fn painted(info: &VideoInfo, rgb: [u8; 3]) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let mut writer = Writer::new(info, Format::Rgb(depth(info))).unwrap();
    writer
        .write(buffer.get_mut().unwrap(), |frame| {
            match &mut frame.samples {
                SamplesMut::U8(samples) => {
                    for row in samples.chunks_mut(frame.stride) {
                        row.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&rgb));
                    }
                }
                SamplesMut::Planes(..) => panic!("RGB was asked for"),
                SamplesMut::U16(samples) => {
                    let rgb = rgb.map(|n| u16::from(n) * 257);
                    samples.chunks_exact_mut(3).for_each(|pixel| pixel.copy_from_slice(&rgb));
                }
            }
            Ok(())
        })
        .unwrap();
    buffer
}

/// Every pixel of a picture, in units of 1/255.
fn pixels(info: &VideoInfo, buffer: &gst::Buffer) -> Vec<[f64; 3]> {
    let mut pixels = Vec::new();
    let take = |frame: &Frame<'_>| {
        frame.check()?;
        for y in 0..frame.height {
            for x in 0..frame.width {
                let at = y * frame.stride + 3 * x;
                pixels.push(match frame.samples {
                    Samples::U8(s) => [0, 1, 2].map(|c| f64::from(s[at + c])),
                    Samples::U16(s) => [0, 1, 2].map(|c| f64::from(s[at + c]) / 257.0),
                    Samples::Planes(..) => panic!("RGB was asked for"),
                });
            }
        }
        Ok(())
    };
    Reader::new(info, Format::Rgb(depth(info))).unwrap().read(buffer, take).unwrap();
    pixels
}

fn info(format: VideoFormat, colorimetry: &str) -> VideoInfo {
    gst::init().unwrap();
    VideoInfo::builder(format, 54, 38).colorimetry(&colorimetry.parse().unwrap()).build().unwrap()
}

#[test]
fn colours_survive_every_format() {
    gst::init().unwrap();
    for format in super::super::caps::FORMATS {
        let grey = gst_video::VideoFormatInfo::from_format(format).is_gray();
        let rgb = if grey { [90, 90, 90] } else { [200, 120, 40] };
        let info = VideoInfo::builder(format, 53, 37).build().unwrap();
        let buffer = painted(&info, rgb);
        let pixels = pixels(&info, &buffer);
        assert_eq!(pixels.len(), 53 * 37);
        for pixel in pixels {
            for (got, given) in pixel.iter().zip(rgb) {
                // Eight bits of YCbCr hold a colour to about two steps of RGB.
                assert!((got - f64::from(given)).abs() <= 3.0, "{format}: {pixel:?} for {rgb:?}");
            }
        }
    }
}

#[test]
fn matrix_and_range_are_those_of_the_caps() {
    // The same colour in three colorimetries, by the definition of each.
    let rgb = [200.0, 120.0, 40.0];
    let ycbcr = |kr: f64, kb: f64, full: bool| {
        let y = kr * rgb[0] + (1.0 - kr - kb) * rgb[1] + kb * rgb[2];
        let (cb, cr) = ((rgb[2] - y) / (2.0 - 2.0 * kb), (rgb[0] - y) / (2.0 - 2.0 * kr));
        let (gain, offset, chroma) = if full { (1.0, 0.0, 1.0) } else { (219.0 / 255.0, 16.0, 224.0 / 255.0) };
        [y * gain + offset, cb * chroma + 128.0, cr * chroma + 128.0].map(|n| n.round() as u8)
    };
    let cases = [
        ("bt601", ycbcr(0.299, 0.114, false)),
        ("bt709", ycbcr(0.2126, 0.0722, false)),
        ("1:4:0:0", ycbcr(0.299, 0.114, true)),
    ];
    for (colorimetry, color) in cases {
        let info = info(VideoFormat::Y444, colorimetry);
        let mut data = Vec::new();
        for (plane, value) in color.iter().enumerate() {
            let end = info.offset().get(plane + 1).copied().unwrap_or(info.size());
            data.resize(end, *value);
        }
        for pixel in pixels(&info, &gst::Buffer::from_slice(data)) {
            for (got, given) in pixel.iter().zip(rgb) {
                assert!((got - given).abs() <= 3.0, "{colorimetry}: {pixel:?} for {rgb:?}");
            }
        }
    }
}

#[test]
fn ten_bits_stay_ten_bits() {
    // Every grey level of ten bits, black to white.
    let info = info(VideoFormat::I42010le, "bt709");
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    let level = |i: usize| 64 + (i % 877) as u16;
    {
        let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), &info).unwrap();
        for plane in 0..3 {
            let stride = frame.plane_stride()[plane as usize] as usize;
            let data = frame.plane_data_mut(plane).unwrap();
            for (i, sample) in data.chunks_exact_mut(2).enumerate() {
                let (x, y) = (i % (stride / 2), i / (stride / 2));
                let value = if plane == 0 { level(y * 54 + x) } else { 512 };
                sample.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    let pixels = pixels(&info, &buffer);
    let mut distinct: Vec<u64> = pixels.iter().map(|pixel| (pixel[0] * 257.0) as u64).collect();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() >= 870, "877 levels went in, {} came out", distinct.len());
    for (i, pixel) in pixels.iter().enumerate() {
        let expected = f64::from(level(i) - 64) / 876.0 * 255.0;
        assert!((pixel[1] - expected).abs() < 0.5, "{pixel:?} for {expected}");
    }
}

#[test]
fn rgb_of_unknown_range_is_not_converted() {
    // As rawvideoparse describes it.
    let info = info(VideoFormat::Rgb, "0:1:0:0");
    let buffer = painted(&info, [200, 120, 40]);
    assert_eq!(depth(&info), Depth::Eight);
    for pixel in pixels(&info, &buffer) {
        assert_eq!(pixel, [200.0, 120.0, 40.0]);
    }
}

#[test]
fn a_buffer_that_is_too_small_is_refused() {
    let info = info(VideoFormat::I420, "bt709");
    let mut reader = Reader::new(&info, Format::default()).unwrap();
    let failure = reader.read(&gst::Buffer::with_size(10).unwrap(), |_| Ok(())).unwrap_err();
    assert!(matches!(failure, Failure::Map(_)), "{failure}");
}

/// Truncation would make every picture half a level darker, and bits repeated into the lower half would tint grey.
#[test]
fn eight_bit_ycbcr_is_rounded_and_grey_stays_grey() {
    let info = info(VideoFormat::Y444, "bt601");
    for level in 0..=255u8 {
        let buffer = painted(&info, [level; 3]);
        let map = buffer.map_readable().unwrap();
        let (y, u, v) = (map[info.offset()[0]], map[info.offset()[1]], map[info.offset()[2]]);
        let exact = 16.0 + 219.0 * f64::from(level) / 255.0;
        assert_eq!((y, u, v), (exact.round() as u8, 128, 128), "level {level}");
        // The converter's matrix has coefficients of 8 bits, which is where the rest comes from.
        let exact = (f64::from(y) - 16.0) * 255.0 / 219.0;
        for channel in pixels(&info, &buffer)[0] {
            assert!((channel - exact).abs() < 0.5, "level {level}: {channel}, exact {exact}");
        }
    }
}
