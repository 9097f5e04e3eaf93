// SPDX-License-Identifier: MPL-2.0

//! Pictures: from and to integer frames, and their views for the network.

use rayon::prelude::*;

use super::resize::Sample;
use super::simd::{tanh, vectorised};
use super::tensor::{CpuTensor, Halo, MapDims, fill_halo};
use super::video::{self, Packed};
use crate::backend::{Frame, FrameMut, Resizer, Rounding, Samples, SamplesMut};
use crate::error::{Error, Result};

pub(super) fn ingest(frame: &Frame<'_>, resizer: &Resizer) -> Result<CpuTensor> {
    frame.check()?;
    let expected = resizer.geometry.input;
    if (frame.width, frame.height) != (expected.width, expected.height) {
        return Err(Error::Settings(format!("frame of {}x{}, expected {expected}", frame.width, frame.height)));
    }
    match frame.samples {
        Samples::U8(samples) => ingest_samples(samples, frame.stride, resizer),
        Samples::U16(samples) => ingest_samples(samples, frame.stride, resizer),
        Samples::Planes(layout, planes) => match video::to_rgb(&layout, &planes, frame.size()) {
            Packed::U8(samples) => ingest_samples(&samples, 3 * frame.width, resizer),
            Packed::U16(samples) => ingest_samples(&samples, 3 * frame.width, resizer),
        },
    }
}

fn ingest_samples<S: Sample>(samples: &[S], stride: usize, resizer: &Resizer) -> Result<CpuTensor> {
    let input = resizer.geometry.input;
    let (rows, cols) = resizer.shown();
    let (height, width) = (resizer.geometry.model.height, resizer.geometry.model.width);
    let mut resized = vec![S::default(); input.height * 3 * cols];
    resized.par_chunks_mut(3 * cols).enumerate().for_each(|(y, out)| {
        resizer.row(out, &samples[y * stride..][..3 * input.width]);
    });
    let mut out = vec![0.0f32; 3 * height * width];
    let (red, rest) = out.split_at_mut(height * width);
    let (green, blue) = rest.split_at_mut(height * width);
    (red.par_chunks_mut(width), green.par_chunks_mut(width), blue.par_chunks_mut(width))
        .into_par_iter()
        .enumerate()
        .take(rows)
        .for_each_init(
            || (vec![S::HALF; 3 * cols], vec![S::default(); 3 * cols]),
            |(sums, line), (y, (red, green, blue))| {
                vectorised(
                    #[inline(always)]
                    || resizer.column(sums, line, &resized, y),
                );
                let value = |s: S| s.to_f32() / S::MAX * 2.0 - 1.0;
                for (x, pixel) in line.chunks_exact(3).enumerate() {
                    red[x] = value(pixel[0]);
                    green[x] = value(pixel[1]);
                    blue[x] = value(pixel[2]);
                }
                for plane in [red, green, blue] {
                    let last = plane[cols - 1];
                    plane[cols..].fill(last);
                }
            },
        );
    for plane in out.chunks_exact_mut(height * width) {
        for y in rows..height {
            plane.copy_within((rows - 1) * width..rows * width, y * width);
        }
    }
    CpuTensor::picture(out, height, width)
}

pub(super) fn emit(picture: &CpuTensor, rounding: Rounding, out: &mut FrameMut<'_>) -> Result<()> {
    out.check()?;
    let (height, width) = picture.picture_dims()?;
    if out.width > width || out.height > height {
        return Err(Error::Settings(format!("frame of {}x{} out of {width}x{height}", out.width, out.height)));
    }
    let picture = picture.values()?;
    let planes = [&picture[..height * width], &picture[height * width..], &picture[2 * height * width..]];
    let (cols, rows, stride, size) = (out.width, out.height, out.stride, out.size());
    let half = match rounding {
        Rounding::Nearest => 0.5,
        Rounding::Truncate => 0.0,
    };
    match &mut out.samples {
        SamplesMut::U8(s) => emit_rows(s, planes, width, cols, rows, stride, |v| quantise(v, 255.0, half) as u8),
        SamplesMut::U16(s) => emit_rows(s, planes, width, cols, rows, stride, |v| quantise(v, 65535.0, half) as u16),
        SamplesMut::Planes(layout, samples) => video::from_rgb(layout, samples, size, planes, width, half),
    }
    Ok(())
}

/// `clip((x + 1) * max / 2) + half`, to be truncated by the caller's cast (which saturates, and turns NaN into 0).
#[inline(always)]
pub(super) fn quantise(value: f32, max: f32, half: f32) -> f32 {
    ((value + 1.0) * (max / 2.0)).clamp(0.0, max) + half
}

fn emit_rows<S: Sample>(
    samples: &mut [S],
    planes: [&[f32]; 3],
    width: usize,
    cols: usize,
    rows: usize,
    stride: usize,
    quantise: impl Fn(f32) -> S + Sync,
) {
    samples.par_chunks_mut(stride).take(rows).enumerate().for_each(|(y, line)| {
        let [red, green, blue] = planes.map(|plane| &plane[y * width..][..cols]);
        for (((pixel, r), g), b) in line.chunks_exact_mut(3).zip(red).zip(green).zip(blue) {
            pixel.copy_from_slice(&[quantise(*r), quantise(*g), quantise(*b)]);
        }
    });
}

pub(super) fn add(a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
    let (height, width) = a.picture_dims()?;
    if b.picture_dims()? != (height, width) {
        return Err(Error::Compute(format!("sum of pictures of {:?} and {:?}", (height, width), b.picture_dims()?)));
    }
    let (a, b) = (a.values()?, b.values()?);
    let mut out = vec![0.0f32; a.len()];
    out.par_chunks_mut(width).zip(a.par_chunks(width).zip(b.par_chunks(width))).for_each(|(out, (a, b))| {
        out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out = a + b);
    });
    CpuTensor::picture(out, height, width)
}

pub(super) fn is_finite(x: &CpuTensor) -> Result<bool> {
    // 0 * x is 0 for finite values and NaN for the others; NaN spreads through the sum.
    let values = x.values()?;
    Ok(values.par_chunks(1 << 16).all(|chunk| {
        vectorised(
            #[inline(always)]
            || super::simd::sum_of(chunk, |v| 0.0 * v) == 0.0,
        )
    }))
}

/// Copies blocks of `side x side` pixels of a picture into the channels of a map: channel
/// `c * channel_step + offset + dy * side + dx`.
fn scatter_blocks(
    map: &mut [f32],
    dims: MapDims,
    picture: &[f32],
    (height, width): (usize, usize),
    side: usize,
    (channel_step, offset): (usize, usize),
) {
    let row = dims.pitch() * dims.channels;
    map[row..(dims.height + 1) * row].par_chunks_mut(row).enumerate().for_each(|(y, line)| {
        for (x, position) in line[dims.channels..].chunks_exact_mut(dims.channels).take(dims.width).enumerate() {
            for c in 0..3 {
                for dy in 0..side {
                    let source = &picture[(c * height + y * side + dy) * width + x * side..][..side];
                    position[c * channel_step + offset + dy * side..][..side].copy_from_slice(source);
                }
            }
        }
    });
}

/// Space-to-depth by 16.
pub(super) fn pixel_unshuffle(picture: &CpuTensor) -> Result<CpuTensor> {
    const SIDE: usize = 16;
    let (height, width) = picture.picture_dims()?;
    let dims = MapDims { height: height / SIDE, width: width / SIDE, channels: 3 * SIDE * SIDE };
    let mut out = vec![0.0f32; dims.len()];
    scatter_blocks(&mut out, dims, &picture.values()?, (height, width), SIDE, (SIDE * SIDE, 0));
    fill_halo(&mut out, dims, Halo::Replicate);
    CpuTensor::map(out, dims, Halo::Replicate)
}

pub(super) fn decoder_input(cond: [&CpuTensor; 4], latent: &CpuTensor) -> Result<CpuTensor> {
    const SIDE: usize = 8;
    const COND_CHANNELS: usize = 3 * 4 * SIDE * SIDE;
    let latent_dims = latent.map_dims()?;
    let dims = MapDims { channels: COND_CHANNELS + latent_dims.channels, ..latent_dims };
    let mut out = vec![0.0f32; dims.len()];
    for (dt, picture) in cond.into_iter().enumerate() {
        let size = picture.picture_dims()?;
        if size != (dims.height * SIDE, dims.width * SIDE) {
            return Err(Error::Compute(format!("condition of {size:?} for a latent of {latent_dims:?}")));
        }
        scatter_blocks(&mut out, dims, &picture.values()?, size, SIDE, (4 * SIDE * SIDE, dt * SIDE * SIDE));
    }
    let latent = latent.values()?;
    let row = dims.pitch() * dims.channels;
    out[row..(dims.height + 1) * row].par_chunks_mut(row).enumerate().for_each(|(y, line)| {
        vectorised(
            #[inline(always)]
            || {
                let line = &mut line[dims.channels..row - dims.channels];
                for (x, position) in line.chunks_exact_mut(dims.channels).enumerate() {
                    let latent = &latent[latent_dims.at(y, x)..][..latent_dims.channels];
                    position[COND_CHANNELS..].copy_from_slice(latent);
                }
                line.iter_mut().for_each(|v| *v = tanh(*v / 3.0) * 3.0);
            },
        );
    });
    CpuTensor::map(out, dims, Halo::Zero)
}

pub(super) fn to_picture(map: &CpuTensor) -> Result<CpuTensor> {
    let dims = map.map_dims()?;
    if dims.channels != 3 {
        return Err(Error::Compute(format!("a picture of {} channels", dims.channels)));
    }
    let map = map.values()?;
    let mut out = vec![0.0f32; 3 * dims.height * dims.width];
    out.par_chunks_mut(dims.width).enumerate().for_each(|(i, line)| {
        let (c, y) = (i / dims.height, i % dims.height);
        let source = map[dims.at(y, 0)..].chunks_exact(3);
        line.iter_mut().zip(source).for_each(|(out, pixel)| *out = pixel[c] * 2.0 - 1.0);
    });
    CpuTensor::picture(out, dims.height, dims.width)
}
