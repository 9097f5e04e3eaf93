// SPDX-License-Identifier: MPL-2.0

//! Bicubic resizing with the arithmetic of Pillow (`Resample.c`): fixed-point weights, the horizontal pass first, each pass
//! rounded to the depth of the picture. The same for 16 bits with coarser weights, so that the sums fit 32 bits.

use crate::backend::Geometry;

/// Fixed-point weights and first source sample of each output sample along one axis.
#[derive(Debug)]
struct Axis {
    taps: usize,
    first: Vec<usize>,
    weights: Vec<f64>,
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
        Self { taps: taps.min(input), first, weights: compact(weights, taps, input) }
    }

    /// The weights with `bits` fractional bits, rounded half away from zero.
    fn fixed(&self, bits: u32) -> Vec<i32> {
        let one = f64::from(1u32 << bits);
        self.weights.iter().map(|w| (w * one).round() as i32).collect()
    }
}

/// Drops the taps beyond a picture that is smaller than the kernel; they are 0.
fn compact(weights: Vec<f64>, taps: usize, input: usize) -> Vec<f64> {
    weights.chunks_exact(taps).flat_map(|w| w[..taps.min(input)].to_vec()).collect()
}

/// An integer sample.
pub(super) trait Sample: Copy + Default + Send + Sync {
    /// Fractional bits of the weights.
    const BITS: u32;
    /// The largest value.
    const MAX: i32;
    fn widen(self) -> i32;
    fn clip(value: i32) -> Self;
}

impl Sample for u8 {
    const BITS: u32 = 22;
    const MAX: i32 = u8::MAX as i32;

    fn widen(self) -> i32 {
        self.into()
    }

    fn clip(value: i32) -> Self {
        value.clamp(0, <Self as Sample>::MAX) as u8
    }
}

impl Sample for u16 {
    const BITS: u32 = 14;
    const MAX: i32 = u16::MAX as i32;

    fn widen(self) -> i32 {
        self.into()
    }

    fn clip(value: i32) -> Self {
        value.clamp(0, <Self as Sample>::MAX) as u16
    }
}

/// What is needed to resize frames under one [`Geometry`]: the weights of the columns and rows that the model frame shows.
#[derive(Debug)]
pub struct Resizer {
    pub(super) geometry: Geometry,
    columns: Axis,
    rows: Axis,
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

    /// The weights in the fixed-point format of `S`.
    pub(super) fn weights<S: Sample>(&self) -> Weights<'_> {
        Weights { resizer: self, columns: self.columns.fixed(S::BITS), rows: self.rows.fixed(S::BITS) }
    }
}

/// Fixed-point weights of both passes.
pub(super) struct Weights<'a> {
    resizer: &'a Resizer,
    columns: Vec<i32>,
    rows: Vec<i32>,
}

impl Weights<'_> {
    /// Horizontal pass of one row of packed RGB.
    pub(super) fn row<S: Sample>(&self, out: &mut [S], input: &[S]) {
        let axis = &self.resizer.columns;
        for ((out, &first), weights) in
            out.chunks_exact_mut(3).zip(&axis.first).zip(self.columns.chunks_exact(axis.taps))
        {
            let mut sums = [1i32 << (S::BITS - 1); 3];
            for (pixel, w) in input[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += sample.widen() * w;
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = S::clip(sum >> S::BITS);
            }
        }
    }

    /// Vertical pass: output row `y` out of horizontally resized rows of `out.len()` samples.
    #[inline(always)]
    pub(super) fn column<S: Sample>(&self, sums: &mut [i32], out: &mut [S], rows: &[S], y: usize) {
        let axis = &self.resizer.rows;
        let width = out.len();
        sums.fill(1 << (S::BITS - 1));
        let first = axis.first[y];
        for (row, w) in rows[first * width..].chunks_exact(width).zip(&self.rows[y * axis.taps..(y + 1) * axis.taps]) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += sample.widen() * w;
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = S::clip(*sum >> S::BITS);
        }
    }
}
