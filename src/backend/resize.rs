// SPDX-License-Identifier: MPL-2.0

//! Bicubic resizing with the arithmetic of Pillow (`Resample.c`): weights in fixed point, the horizontal pass first, each pass
//! rounded to the depth of the picture. The same for 16 bits, with sums of 64.

use super::Geometry;

/// How output samples along one axis are made of source samples.
#[derive(Debug)]
pub(super) struct Axis {
    /// Source samples of each output sample.
    pub taps: usize,
    /// First source sample of each output sample.
    pub first: Vec<usize>,
    /// `taps` weights of each output sample.
    pub weights: Vec<i32>,
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

impl Axis {
    /// Output samples `from..from + count` of `output` made of `input`.
    fn new(input: usize, output: usize, from: usize, count: usize) -> Self {
        let scale = input as f64 / output as f64;
        // Below 1 the kernel is stretched over the samples it covers (antialiasing).
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let taps = 2 * support.ceil() as usize + 1;
        let mut first = Vec::with_capacity(count);
        let mut weights = vec![0.0; count * taps];
        for (i, weights) in (from..from + count).zip(weights.chunks_exact_mut(taps)) {
            let centre = (i as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let mut sum = 0.0;
            for (w, x) in weights.iter_mut().zip(start..end) {
                *w = cubic((x as f64 - centre + 0.5) / stretch);
                sum += *w;
            }
            weights.iter_mut().for_each(|w| *w /= sum);
            first.push(start.min(input.saturating_sub(taps)));
            // A shorter reach at the end of the axis: keep the window inside the picture and move the weights instead.
            let moved = start - first[first.len() - 1];
            weights.rotate_right(moved.min(taps));
        }
        Self { taps: taps.min(input), first, weights: fixed(&weights, taps, taps.min(input)) }
    }
}

/// The first `kept` of each `taps` weights in fixed point, rounded half away from zero. Those beyond a picture that is
/// smaller than the kernel are 0.
fn fixed(weights: &[f64], taps: usize, kept: usize) -> Vec<i32> {
    let one = f64::from(1u32 << BITS);
    weights.chunks_exact(taps).flat_map(|w| &w[..kept]).map(|w| (w * one).round() as i32).collect()
}

/// Fractional bits of the weights: Pillow's, so that the sums of 8-bit samples fit 32 bits.
pub(super) const BITS: u32 = 22;

/// What is needed to resize frames under one [`Geometry`]: the weights of the columns and rows that the model frame shows.
#[derive(Debug)]
pub struct Resizer {
    pub(super) geometry: Geometry,
    pub(super) columns: Axis,
    pub(super) rows: Axis,
}

impl Resizer {
    pub(super) fn new(geometry: Geometry) -> Self {
        let (x, y) = geometry.crop;
        let columns = geometry.model.width.min(geometry.scaled.width - x);
        let rows = geometry.model.height.min(geometry.scaled.height - y);
        Self {
            geometry,
            columns: Axis::new(geometry.input.width, geometry.scaled.width, x, columns),
            rows: Axis::new(geometry.input.height, geometry.scaled.height, y, rows),
        }
    }

    /// Rows and columns of the model frame that show the input; what is beyond repeats the last ones.
    pub(super) fn shown(&self) -> (usize, usize) {
        (self.rows.first.len(), self.columns.first.len())
    }
}
