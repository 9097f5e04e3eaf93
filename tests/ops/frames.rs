// SPDX-License-Identifier: MPL-2.0

//! Frames in and out: PIL's bicubic in integers, the edge, the way back to integers.

use gstflashvsr::backend::{
    Backend, ColorFix, Format, Frame, FrameMut, Geometry, OutputSpec, Rounding, Samples, SamplesMut, Size, SizePolicy,
};

use crate::common::uniform;
use crate::reference::Array;

/// PIL's fixed point for the weights of 8-bit pictures.
const PRECISION: u32 = 32 - 8 - 2;
/// What lies between the rows of a frame; it must not be read, and not be written.
const GARBAGE: u8 = 0xA5;

/// The cubic kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), -0.5);
    match x {
        x if x < 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * a,
        _ => 0.0,
    }
}

/// For each output sample its first input sample and its weights, which widen when a side shrinks.
fn taps(from: usize, to: usize) -> Vec<(usize, Vec<f64>)> {
    let scale = from as f64 / to as f64;
    let widened = scale.max(1.0);
    (0..to)
        .map(|i| {
            let center = (i as f64 + 0.5) * scale;
            let first = ((center - 2.0 * widened + 0.5) as isize).max(0) as usize;
            let end = ((center + 2.0 * widened + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..end).map(|j| cubic((j as f64 - center + 0.5) / widened)).collect();
            let sum: f64 = weights.iter().sum();
            (first, weights.into_iter().map(|w| w / sum).collect())
        })
        .collect()
}

/// Weighted sums of 8-bit samples as PIL makes them: in integers, rounded and clipped.
fn integer_sum(samples: &[f64], weights: &[f64]) -> f64 {
    let fixed = |w: f64| (w * f64::from(1 << PRECISION) + if w < 0.0 { -0.5 } else { 0.5 }) as i64;
    let sum: i64 = samples.iter().zip(weights).map(|(&s, &w)| s as i64 * fixed(w)).sum();
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as f64
}

/// Weighted sums of 16-bit samples: rounded and clipped.
fn rounded_sum(samples: &[f64], weights: &[f64]) -> f64 {
    samples.iter().zip(weights).map(|(s, w)| s * w).sum::<f64>().round().clamp(0.0, 65535.0)
}

/// A picture `[height, width, 3]` of integers resized, across first.
fn resized(picture: &Array, to: Size, sum: fn(&[f64], &[f64]) -> f64) -> Array {
    let (height, width) = (picture.shape[0], picture.shape[1]);
    let (across, down) = (taps(width, to.width), taps(height, to.height));
    let wide = Array::build([height, to.width, 3], |[y, x, c]| {
        let (first, weights) = &across[x];
        let samples: Vec<f64> = (0..weights.len()).map(|i| picture.at([y, first + i, c])).collect();
        sum(&samples, weights)
    });
    Array::build([to.height, to.width, 3], |[y, x, c]| {
        let (first, weights) = &down[y];
        let samples: Vec<f64> = (0..weights.len()).map(|i| wide.at([first + i, x, c])).collect();
        sum(&samples, weights)
    })
}

/// Integers in `0..=max`: half of the picture noise, a quarter black and white in turn, so that overshoot is clipped.
fn integers(size: Size, max: f64) -> Array {
    let Size { width, height } = size;
    let noise = uniform(&format!("frame {size}"), 3 * width * height, 1.0, 0.5, 1);
    Array::build([height, width, 3], |[y, x, c]| match (2 * y < height, 2 * x < width) {
        (true, true) => {
            if (x / 2 + y / 3) % 2 == 0 {
                0.0
            } else {
                max
            }
        }
        _ => (f64::from(noise[(y * width + x) * 3 + c]) * max).round(),
    })
}

/// The samples of a picture, rows `stride` apart, the last one no longer than it must be.
fn laid_out<T: Copy + From<u8>>(picture: &Array, stride: usize, sample: fn(f64) -> T) -> Vec<T> {
    let row = 3 * picture.shape[1];
    let mut samples = vec![T::from(GARBAGE); stride * (picture.shape[0] - 1) + row];
    for (out, values) in samples.chunks_mut(stride).zip(picture.values.chunks(row)) {
        for (out, &value) in out.iter_mut().zip(values) {
            *out = sample(value);
        }
    }
    samples
}

/// What a backend makes of a picture of 8 or 16 bits, as the integers `[3, H, W]` that it stands for.
fn ingested<B: Backend>(b: &B, picture: &Array, max: f64, geometry: &Geometry) -> Array {
    let Size { width, height } = geometry.input;
    let ingest = b.prepare_ingest(geometry).unwrap();
    let stride = 3 * width + 5;
    let bytes = laid_out(picture, stride, |v| v as u8);
    let words = laid_out(picture, stride, |v| v as u16);
    let samples = if max == 255.0 { Samples::U8(&bytes) } else { Samples::U16(&words) };
    let got = Array::of(b, &b.ingest(&Frame { width, height, stride, samples }, &ingest).unwrap());
    assert_eq!(got.shape, [3, geometry.model.height, geometry.model.width]);
    for value in &got.values {
        let level = (value + 1.0) / 2.0 * max;
        assert!((level - level.round()).abs() <= max * 2e-7, "{value} is no level of 0..={max}");
    }
    got.map_values(|value| ((value + 1.0) / 2.0 * max).round())
}

/// The levels of the model frame: the scaled frame from `crop` on, its last row and column repeated.
fn placed(scaled: &Array, geometry: &Geometry) -> Array {
    Array::build([3, geometry.model.height, geometry.model.width], |[c, y, x]| {
        let y = (y + geometry.crop.1).min(geometry.scaled.height - 1);
        let x = (x + geometry.crop.0).min(geometry.scaled.width - 1);
        scaled.at([y, x, c])
    })
}

/// Inputs, what they are scaled to, and how.
fn geometries() -> Vec<Geometry> {
    let cases = [
        ((32, 32), (128, 128), SizePolicy::Fail),
        ((128, 128), (128, 128), SizePolicy::Fail),
        ((43, 64), (128, 256), SizePolicy::Fail),
        ((128, 37), (128, 130), SizePolicy::Pad),
        ((61, 83), (152, 208), SizePolicy::Crop),
        ((17, 9), (136, 72), SizePolicy::Pad),
        ((1, 1), (8, 8), SizePolicy::Pad),
        ((3, 2), (5, 7), SizePolicy::Pad),
        ((300, 200), (140, 131), SizePolicy::Pad),
    ];
    let size = |(width, height)| Size::new(width, height);
    cases.map(|(input, scaled, policy)| Geometry::new(size(input), size(scaled), policy).unwrap()).into()
}

pub fn ingest_u8<B: Backend>(b: &B) {
    for geometry in geometries() {
        let picture = integers(geometry.input, 255.0);
        let want = placed(&resized(&picture, geometry.scaled, integer_sum), &geometry);
        let got = ingested(b, &picture, 255.0, &geometry);
        let wrong = got.values.iter().zip(&want.values).filter(|(g, w)| g != w).count();
        assert_eq!(wrong, 0, "samples differ: {geometry:?}");
    }
}

pub fn ingest_u16<B: Backend>(b: &B) {
    for geometry in geometries() {
        let picture = integers(geometry.input, 65535.0);
        let want = placed(&resized(&picture, geometry.scaled, rounded_sum), &geometry);
        let got = ingested(b, &picture, 65535.0, &geometry);
        let worst = got.values.iter().zip(&want.values).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        assert!(worst <= 2.0, "{worst} steps off: {geometry:?}");
    }
}

pub fn ingest_pads_with_the_edge<B: Backend>(b: &B) {
    let geometry = Geometry::new(Size::new(20, 10), Size::new(60, 30), SizePolicy::Pad).unwrap();
    let got = ingested(b, &integers(geometry.input, 255.0), 255.0, &geometry);
    for c in 0..3 {
        for y in 0..geometry.model.height {
            for x in 0..geometry.model.width {
                assert_eq!(got.at([c, y, x]), got.at([c, y.min(29), x.min(59)]), "channel {c}, row {y}, column {x}");
            }
        }
    }
}

/// Emits the top left of a picture; gives the samples of the frame, and checks that nothing else is written.
fn emitted<B: Backend>(b: &B, picture: &B::Tensor, size: Size, max: f64, rounding: Rounding) -> Array {
    let Size { width, height } = size;
    let stride = 3 * width + 7;
    let len = stride * (height - 1) + 3 * width;
    let (mut bytes, mut words) = (vec![GARBAGE; len], vec![u16::from(GARBAGE); len]);
    let samples = if max == 255.0 { SamplesMut::U8(&mut bytes) } else { SamplesMut::U16(&mut words) };
    b.emit(picture, rounding, &mut FrameMut { width, height, stride, samples }).unwrap();
    let samples: Vec<f64> = match max {
        255.0 => bytes.into_iter().map(f64::from).collect(),
        _ => words.into_iter().map(f64::from).collect(),
    };
    for row in samples.chunks(stride) {
        assert!(row[3 * width..].iter().all(|&s| s == f64::from(GARBAGE)), "written between the rows");
    }
    Array::build([height, width, 3], |[y, x, c]| samples[y * stride + 3 * x + c])
}

pub fn emit<B: Backend>(b: &B) {
    for (rows, cols, size) in [(1, 1, (1, 1)), (5, 7, (7, 5)), (5, 7, (3, 4)), (64, 33, (33, 64)), (16, 130, (129, 15))]
    {
        let size = Size::new(size.0, size.1);
        let mut picture = Array::random("picture", &[3, rows, cols], 0.7);
        for (value, extreme) in picture.values.iter_mut().step_by(5).zip([1.0, -1.0, 1e9, -1e9, 1.0001, -1.0001]) {
            *value = f64::from(extreme as f32);
        }
        for max in [255.0, 65535.0] {
            for rounding in [Rounding::Nearest, Rounding::Truncate] {
                let got = emitted(b, &picture.picture(b), size, max, rounding);
                for (y, x) in (0..size.height).flat_map(|y| (0..size.width).map(move |x| (y, x))) {
                    for c in 0..3 {
                        let exact = ((picture.at([c, y, x]) + 1.0) * max / 2.0).clamp(0.0, max);
                        let below = exact - got.at([y, x, c]);
                        // f32 may take an integer's neighbour for it.
                        let slack = max * 2e-7;
                        let allowed = match rounding {
                            Rounding::Nearest => -0.5 - slack..=0.5 + slack,
                            Rounding::Truncate => -slack..=1.0 + slack,
                        };
                        assert!(allowed.contains(&below), "{exact} of {max} became {}", got.at([y, x, c]));
                    }
                }
            }
        }
    }
}

/// Sends a picture and receives it, with what the backend says of it.
fn sent<B: Backend>(b: &B, hq: &B::Tensor, lq: &B::Tensor, output: OutputSpec) -> (Vec<u8>, bool) {
    let Size { width, height } = output.size;
    let mut bytes = vec![GARBAGE; 3 * width * height];
    let pending = b.begin_download(hq, lq, &output).unwrap();
    // Others may be on their way at the same time.
    let other = b.begin_download(lq, hq, &output).unwrap();
    let mut out = FrameMut { width, height, stride: 3 * width, samples: SamplesMut::U8(&mut bytes) };
    let replaced = b.finish_download(pending, &mut out).unwrap();
    drop(other);
    (bytes, replaced)
}

/// What is sent is what the separate operations give; a picture with a value that is not finite gives way to the input.
pub fn send<B: Backend>(b: &B) {
    for (rows, cols, size) in [(1, 1, Size::new(1, 1)), (21, 37, Size::new(36, 20)), (64, 128, Size::new(128, 64))] {
        let hq = Array::random("hq", &[3, rows, cols], 0.4);
        let lq = Array::around("lq", &[3, rows, cols], 0.3, 0.1);
        let (lq_picture, area) = (lq.picture(b), 3 * rows * cols);
        for color_fix in [ColorFix::Adain, ColorFix::Wavelet, ColorFix::None] {
            let output = OutputSpec { color_fix, rounding: Rounding::Nearest, size, format: Format::default() };
            let bytes = |picture: &B::Tensor| -> Vec<u8> {
                emitted(b, picture, size, 255.0, Rounding::Nearest).values.iter().map(|v| *v as u8).collect()
            };
            let fixed = b.color_fix(&hq.picture(b), &lq_picture, color_fix).unwrap();
            assert!(sent(b, &hq.picture(b), &lq_picture, output) == (bytes(&fixed), false), "{size}, {color_fix:?}");
            for (place, bad) in [(0, f64::NAN), (area / 2, f64::INFINITY), (area - 1, f64::NEG_INFINITY)] {
                let mut spoiled = hq.clone();
                spoiled.values[place] = bad;
                let got = sent(b, &spoiled.picture(b), &lq_picture, output);
                assert!(got == (bytes(&lq_picture), true), "{size}, {color_fix:?}, {bad} at {place}");
            }
        }
    }
}

/// Every level of 8 and of 16 bits passes unchanged through a model of the same size that changes nothing.
pub fn every_level_survives<B: Backend>(b: &B) {
    for (size, max) in [(Size::new(128, 128), 255.0), (Size::new(256, 128), 65535.0)] {
        let levels =
            Array::build([size.height, size.width, 3], |[y, x, c]| ((y * size.width + x) * 3 + c) as f64 % (max + 1.0));
        let geometry = Geometry::new(size, size, SizePolicy::Fail).unwrap();
        let stride = 3 * size.width;
        let (bytes, words) = (laid_out(&levels, stride, |v| v as u8), laid_out(&levels, stride, |v| v as u16));
        let samples = if max == 255.0 { Samples::U8(&bytes) } else { Samples::U16(&words) };
        let frame = Frame { width: size.width, height: size.height, stride, samples };
        let picture = b.ingest(&frame, &b.prepare_ingest(&geometry).unwrap()).unwrap();
        let back = emitted(b, &picture, size, max, Rounding::Nearest);
        assert!(back.values == levels.values, "levels of 0..={max} change");
    }
}

pub fn short_frames_are_refused<B: Backend>(b: &B) {
    let size = Size::new(128, 128);
    let ingest = b.prepare_ingest(&Geometry::new(size, size, SizePolicy::Fail).unwrap()).unwrap();
    let mut samples = vec![0; 3 * 128 * 128 - 1];
    let frame = Frame { width: 128, height: 128, stride: 384, samples: Samples::U8(&samples) };
    assert!(b.ingest(&frame, &ingest).is_err(), "a frame that is a sample short");
    let other = Frame { width: 64, height: 64, stride: 192, samples: Samples::U8(&samples) };
    assert!(b.ingest(&other, &ingest).is_err(), "a frame of another size");

    let picture = Array::random("picture", &[3, 128, 128], 0.3).picture(b);
    let mut out = FrameMut { width: 128, height: 128, stride: 384, samples: SamplesMut::U8(&mut samples) };
    assert!(b.emit(&picture, Rounding::Nearest, &mut out).is_err(), "an output that is a sample short");
    let mut wide = vec![0; 3 * 129 * 128];
    let mut out = FrameMut { width: 129, height: 128, stride: 387, samples: SamplesMut::U8(&mut wide) };
    assert!(b.emit(&picture, Rounding::Nearest, &mut out).is_err(), "an output wider than the picture");
}
