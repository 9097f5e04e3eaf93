// SPDX-License-Identifier: MPL-2.0

//! Frames that an emulated GPU converts are those that `GstVideoConverter` converts, in every format that has a layout.

use gst_video::VideoFormat;

use super::super::caps::FORMATS;
use super::super::convert::{Reader, Writer};
use super::*;
use crate::backend::Backend;
use crate::backend::cuda::emulator::Emulator;
use crate::backend::cuda::{CudaBackend, CudaTensor, Precision};
use crate::upscaler::{Geometry, Rounding, Size, SizePolicy};

type Device = CudaBackend<Emulator>;

fn device() -> Device {
    CudaBackend::new(Emulator::default().into(), Precision::F32).unwrap()
}

/// Numbers in 0..1 that look random, or a smooth hill.
fn content(smooth: bool, component: usize, x: usize, y: usize) -> f64 {
    let (x, y, c) = (x as f64, y as f64, component as f64);
    match smooth {
        true => 0.5 + 0.5 * (0.11 * x + c).sin() * (0.07 * y + 2.0 * c).cos(),
        false => (((x + 1.0) * 12.9898 + (y + 1.0) * 78.233 + c * 37.719).sin() * 43758.5453).rem_euclid(1.0),
    }
}

/// A buffer of this format whose rows are further apart than they need be.
fn padded(info: &VideoInfo) -> gst::Buffer {
    let strides: Vec<i32> = info.stride().iter().map(|stride| stride + 32).collect();
    let bytes = |stride: &i32| *stride as usize * info.height() as usize;
    let offsets: Vec<usize> = (0..strides.len()).map(|i| 16 + strides[..i].iter().map(bytes).sum::<usize>()).collect();
    let mut buffer = gst::Buffer::with_size(16 + strides.iter().map(bytes).sum::<usize>()).unwrap();
    let buffer_ref = buffer.get_mut().unwrap();
    buffer_ref.map_writable().unwrap().fill(0x5A);
    let flags = gst_video::VideoFrameFlags::empty();
    let (width, height) = (info.width(), info.height());
    gst_video::VideoMeta::add_full(buffer_ref, flags, info.format(), width, height, &offsets, &strides).unwrap();
    buffer
}

/// Column, and place in its plane, of every sample of a component.
fn places(frame: &impl VideoFrameExt, layout: &Layout, component: usize) -> Vec<(usize, usize, usize)> {
    let Component { plane, offset, step } = layout.components[component];
    let (bytes, stride) = (layout.sample_bytes(), frame.plane_stride()[plane] as usize);
    let (width, height) = (frame.comp_width(component as u32) as usize, frame.comp_height(component as u32) as usize);
    let place = move |x: usize, y: usize| (x, y, y * stride + (offset + x * step) * bytes);
    (0..height).flat_map(|y| (0..width).map(move |x| place(x, y))).collect()
}

/// A frame of colours that RGB has.
fn frame(info: &VideoInfo, layout: &Layout, smooth: bool) -> gst::Buffer {
    let mut buffer = padded(info);
    let mut frame = VideoFrameRef::from_buffer_ref_writable(buffer.get_mut().unwrap(), info).unwrap();
    let largest = f64::from(layout.largest());
    for component in 0..3 {
        let (least, span) = match (layout.color, component) {
            (Color::Rgb, _) => (0.0, 1.0),
            (_, 0) => (0.35, 0.3),
            _ => (0.4, 0.2),
        };
        for (x, y, at) in places(&frame, layout, component) {
            let sample = ((least + span * content(smooth, component, x, y)) * largest).round() as u16;
            let bytes = (sample << layout.shift).to_le_bytes();
            let data = frame.plane_data_mut(layout.components[component].plane as u32).unwrap();
            data[at..at + layout.sample_bytes()].copy_from_slice(&bytes[..layout.sample_bytes()]);
        }
    }
    drop(frame);
    buffer
}

/// The samples of a component, with their columns.
fn samples(info: &VideoInfo, layout: &Layout, buffer: &gst::Buffer, component: usize) -> Vec<(usize, f64)> {
    let frame = VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let data = frame.plane_data(layout.components[component].plane as u32).unwrap();
    let word = |at: usize| match layout.sample_bytes() {
        1 => u16::from(data[at]),
        _ => u16::from_le_bytes([data[at], data[at + 1]]),
    };
    let places = places(&frame, layout, component).into_iter();
    places.map(|(x, _, at)| (x, f64::from(word(at) >> layout.shift))).collect()
}

fn size(info: &VideoInfo) -> Size {
    Size::new(info.width() as usize, info.height() as usize)
}

/// The RGB in 0..=1 that the model gets of a buffer which is read as `format`.
fn rgb(device: &Device, info: &VideoInfo, format: Format, buffer: &gst::Buffer) -> Vec<[f64; 3]> {
    let Size { width, height } = size(info);
    let ingest = device.prepare_ingest(&Geometry::new(size(info), size(info), SizePolicy::Pad).unwrap()).unwrap();
    let mut picture = None;
    let take = |frame: &Frame<'_>| {
        picture = Some(device.ingest(frame, &ingest)?);
        Ok(())
    };
    Reader::new(info, format).unwrap().read(buffer, take).unwrap();
    let picture = device.to_host(&picture.unwrap()).unwrap();
    let values = picture.narrow(1, 0, height).unwrap().narrow(2, 0, width).unwrap();
    let planes = values.flatten(1, 2).unwrap().to_vec2::<f32>().unwrap();
    (0..width * height).map(|i| [0, 1, 2].map(|c| f64::from(planes[c][i] + 1.0) / 2.0)).collect()
}

/// A buffer into which a picture is written as `format`.
fn written(device: &Device, info: &VideoInfo, format: Format, picture: &CudaTensor) -> gst::Buffer {
    let mut buffer = padded(info);
    let paint = |frame: &mut FrameMut<'_>| device.emit(picture, Rounding::Nearest, frame);
    Writer::new(info, format).unwrap().write(buffer.get_mut().unwrap(), paint).unwrap();
    buffer
}

/// Largest and mean of these differences.
fn difference(differences: &[f64]) -> (f64, f64) {
    let sum: f64 = differences.iter().map(|d| d.abs()).sum();
    (differences.iter().fold(0.0, |largest, d| d.abs().max(largest)), sum / differences.len() as f64)
}

/// Every format that has a layout, with each matrix, both ranges, and the chroma sites that the converter knows: it does not
/// interpolate down where chroma is cosited with rows. (Those are in `tests/ops`.)
fn cases() -> Vec<(VideoInfo, Layout)> {
    gst::init().unwrap();
    let mut cases = Vec::new();
    for format in FORMATS {
        let colorimetries: &[&str] = match gst_video::VideoFormatInfo::from_format(format).is_rgb() {
            true => &["sRGB"],
            false => &["bt601", "bt709", "bt2020", "smpte240m", "2:2:0:0", "1:4:0:0"],
        };
        for (i, colorimetry) in colorimetries.iter().enumerate() {
            let packed = matches!(format, VideoFormat::Yuy2 | VideoFormat::Uyvy | VideoFormat::Yvyu);
            let (width, height) = (if packed { 54 } else { 53 + i as u32 % 2 }, 37 + i as u32 / 2 % 2);
            let site = if i % 3 == 0 { VideoChromaSite::MPEG2 } else { VideoChromaSite::JPEG };
            let info = VideoInfo::builder(format, width, height).chroma_site(site);
            let info = info.colorimetry(&colorimetry.parse().unwrap()).build().unwrap();
            cases.extend(layout(&info).map(|layout| (info, layout)));
        }
    }
    assert!(cases.len() > 100, "{} cases", cases.len());
    cases
}

/// What stands before the message of a failure.
fn name(info: &VideoInfo, smooth: bool) -> String {
    let content = if smooth { "a smooth picture" } else { "noise" };
    format!("{} {} {:?}, {content}", info.name(), info.colorimetry(), info.chroma_site())
}

/// Whether the samples are those of RGB, with nothing to compute.
fn is_copied(layout: &Layout) -> bool {
    layout.color == Color::Rgb && matches!(layout.bits, 8 | 16)
}

/// Levels of 8 bits of the source. The converter rounds halved chroma of 8 bits twice while it interpolates, and its matrix
/// has coefficients of 8 bits; ours are exact, so this is by how much it is off.
#[test]
fn frames_in() {
    let device = device();
    for (info, layout) in cases() {
        let twice = layout.bits == 8 && layout.across != Chroma::Full;
        for smooth in [true, false] {
            let buffer = frame(&info, &layout, smooth);
            let direct = rgb(&device, &info, Format::Video(layout), &buffer);
            let converted = rgb(&device, &info, Format::Rgb(layout.depth()), &buffer);
            let (matrix, unit) = (layout.from_rgb().matrix, 2f64.powi(layout.bits as i32 - 8));
            let change = |(a, b): (&[f64; 3], &[f64; 3]), row: [f64; 3]| -> f64 {
                (0..3).map(|c| row[c] * (a[c] - b[c]) / unit).sum()
            };
            let pairs = direct.iter().zip(&converted);
            let changes: Vec<f64> = pairs.flat_map(|pair| matrix.map(|row| change(pair, row))).collect();
            let (largest, mean) = difference(&changes);
            let allowed = match (is_copied(&layout), twice) {
                (true, _) => (0.0, 0.0),
                (_, true) => (1.25, 0.45),
                (_, false) => (0.75, 0.25),
            };
            assert!(largest <= allowed.0 && mean <= allowed.1, "{}: {largest}, {mean}", name(&info, smooth));
        }
    }
}

/// Levels of 8 bits. The converter truncates more than 8 bits after a dither; of full range it takes 256 levels for 255, and
/// rounds 8 bits before and after each mean of chroma.
#[test]
fn frames_out() {
    let device = device();
    for (info, layout) in cases() {
        let Size { width, height } = size(&info);
        let full = matches!(layout.color, Color::Ycbcr { full_range: true, .. });
        for smooth in [true, false] {
            let value = |i: usize| content(smooth, i / (width * height), i % width, i / width % height);
            let values: Vec<f32> = (0..3 * width * height).map(|i| (2.0 * value(i) - 1.0) as f32).collect();
            let shape = (3, height, width);
            let values = candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap();
            let picture = device.picture(&values).unwrap();
            let direct = written(&device, &info, Format::Video(layout), &picture);
            let converted = written(&device, &info, Format::Rgb(layout.depth()), &picture);
            for component in 0..3 {
                // Of an even width the converter leaves the last pixel out of the last cosited sample.
                let halved = component > 0 && layout.across != Chroma::Full;
                let shortened = halved && layout.across == Chroma::Cosited && width.is_multiple_of(2);
                let compared = if shortened { width / 2 - 1 } else { width };
                let [direct, converted] =
                    [&direct, &converted].map(|buffer| samples(&info, &layout, buffer, component));
                let pairs = direct.iter().zip(&converted).filter(|((x, _), _)| *x < compared);
                let unit = 2f64.powi(layout.bits as i32 - 8);
                let changes: Vec<f64> =
                    pairs.map(|((_, direct), (_, converted))| (direct - converted) / unit).collect();
                let (largest, mean) = difference(&changes);
                let allowed = match (is_copied(&layout), full && halved && layout.bits == 8) {
                    (true, _) => 0.0,
                    (_, true) => 2.0,
                    (_, false) => 1.0,
                };
                let name = format!("{}, component {component}", name(&info, smooth));
                assert!(largest <= allowed && mean <= 0.6 * allowed, "{name}: {largest}, {mean}");
            }
        }
    }
}
