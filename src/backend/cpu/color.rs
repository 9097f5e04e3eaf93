// SPDX-License-Identifier: MPL-2.0

//! Colour correction of the output by the input.

use rayon::prelude::*;

use super::tensor::CpuTensor;
use crate::backend::ColorFix;
use crate::error::{Error, Result};

const EPS: f64 = 1e-5;
/// Dilations of the wavelet decomposition's five levels.
const DILATIONS: [usize; 5] = [1, 2, 4, 8, 16];

pub(super) fn color_fix(hq: &CpuTensor, lq: &CpuTensor, fix: ColorFix) -> Result<CpuTensor> {
    let (height, width) = hq.picture_dims()?;
    if lq.picture_dims()? != (height, width) {
        return Err(Error::Compute(format!("colours of {:?} for {:?}", lq.picture_dims()?, (height, width))));
    }
    if fix == ColorFix::None {
        return Ok(hq.clone());
    }
    let (hq, lq) = (hq.values()?, lq.values()?);
    let mut out = vec![0.0f32; hq.len()];
    let area = height * width;
    for ((out, hq), lq) in out.chunks_exact_mut(area).zip(hq.chunks_exact(area)).zip(lq.chunks_exact(area)) {
        match fix {
            ColorFix::Wavelet => wavelet(out, hq, lq, height, width),
            ColorFix::Adain | ColorFix::None => adain(out, hq, lq),
        }
    }
    CpuTensor::picture(out, height, width)
}

/// Mean and deviation of a plane; biased variance, as the reference's.
fn moments(plane: &[f32]) -> (f64, f64) {
    const CHUNK: usize = 1 << 14;
    // A shift by a value of the plane keeps the one-pass variance accurate; partial sums are added in order.
    let shift = plane[0];
    let sums: Vec<(f64, f64)> = plane
        .par_chunks(CHUNK)
        .map(|chunk| {
            chunk.iter().fold((0.0, 0.0), |(sum, squares), v| {
                let v = f64::from(v - shift);
                (sum + v, squares + v * v)
            })
        })
        .collect();
    let (sum, squares) = sums.into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
    let n = plane.len() as f64;
    let mean = sum / n;
    (mean + f64::from(shift), ((squares / n - mean * mean).max(0.0) + EPS).sqrt())
}

fn adain(out: &mut [f32], hq: &[f32], lq: &[f32]) {
    let ((hq_mean, hq_std), (lq_mean, lq_std)) = (moments(hq), moments(lq));
    let scale = (lq_std / hq_std) as f32;
    let (hq_mean, lq_mean) = (hq_mean as f32, lq_mean as f32);
    out.par_chunks_mut(1 << 14).zip(hq.par_chunks(1 << 14)).for_each(|(out, hq)| {
        for (out, hq) in out.iter_mut().zip(hq) {
            *out = ((hq - hq_mean) * scale + lq_mean).clamp(-1.0, 1.0);
        }
    });
}

/// High frequencies of `hq` and low ones of `lq`. The blur is linear, so `high(hq) + low(lq) = hq + low(lq - hq)`: five
/// blurs in place of ten.
fn wavelet(out: &mut [f32], hq: &[f32], lq: &[f32], height: usize, width: usize) {
    let mut low: Vec<f32> = lq.iter().zip(hq).map(|(l, h)| l - h).collect();
    let mut rows = vec![0.0f32; low.len()];
    for dilation in DILATIONS {
        blur_rows(&mut rows, &low, width, dilation);
        blur_columns(&mut low, &rows, height, width, dilation);
    }
    out.par_chunks_mut(width).zip(hq.par_chunks(width).zip(low.par_chunks(width))).for_each(|(out, (hq, low))| {
        out.iter_mut().zip(hq).zip(low).for_each(|((o, h), l)| *o = (h + l).clamp(-1.0, 1.0));
    });
}

/// The kernel 1-2-1 / 4 along rows, `dilation` apart, edges replicated.
fn blur_rows(out: &mut [f32], input: &[f32], width: usize, dilation: usize) {
    out.par_chunks_mut(width).zip(input.par_chunks(width)).for_each(|(out, input)| {
        for (x, out) in out.iter_mut().enumerate() {
            let (left, right) = (input[x.saturating_sub(dilation)], input[(x + dilation).min(width - 1)]);
            *out = 0.25 * (left + right) + 0.5 * input[x];
        }
    });
}

/// The same along columns.
fn blur_columns(out: &mut [f32], input: &[f32], height: usize, width: usize, dilation: usize) {
    out.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
        let line = |y: usize| &input[y * width..(y + 1) * width];
        let (above, below) = (line(y.saturating_sub(dilation)), line((y + dilation).min(height - 1)));
        for (((out, a), b), v) in out.iter_mut().zip(above).zip(below).zip(line(y)) {
            *out = 0.25 * (a + b) + 0.5 * v;
        }
    });
}
