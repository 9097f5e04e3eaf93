// SPDX-License-Identifier: MPL-2.0

//! The two passes of a resizer over packed RGB.

use crate::backend::resize::{Axis, BITS, Resizer};

/// An integer sample, and the integer in which its weighted sums fit.
pub(super) trait Sample: Copy + Default + Send + Sync {
    /// The largest value.
    const MAX: f32;
    /// A fixed-point sum of weighted samples.
    type Sum: Copy + Default + Send + std::ops::AddAssign;
    /// One half, in fixed point.
    const HALF: Self::Sum;
    fn weighted(self, weight: i32) -> Self::Sum;
    fn from_sum(sum: Self::Sum) -> Self;
    fn to_f32(self) -> f32;
}

impl Sample for u8 {
    const MAX: f32 = u8::MAX as f32;
    type Sum = i32;
    const HALF: i32 = 1 << (BITS - 1);

    fn weighted(self, weight: i32) -> i32 {
        i32::from(self) * weight
    }

    fn from_sum(sum: i32) -> Self {
        (sum >> BITS).clamp(0, u8::MAX.into()) as u8
    }

    fn to_f32(self) -> f32 {
        self.into()
    }
}

impl Sample for u16 {
    const MAX: f32 = u16::MAX as f32;
    type Sum = i64;
    const HALF: i64 = 1 << (BITS - 1);

    fn weighted(self, weight: i32) -> i64 {
        i64::from(self) * i64::from(weight)
    }

    fn from_sum(sum: i64) -> Self {
        (sum >> BITS).clamp(0, u16::MAX.into()) as u16
    }

    fn to_f32(self) -> f32 {
        self.into()
    }
}

impl Resizer {
    /// Horizontal pass of one row of packed RGB.
    pub(super) fn row<S: Sample>(&self, out: &mut [S], input: &[S]) {
        let Axis { taps, first, weights } = &self.columns;
        for ((out, &first), weights) in out.chunks_exact_mut(3).zip(first).zip(weights.chunks_exact(*taps)) {
            let mut sums = [S::HALF; 3];
            for (pixel, &w) in input[3 * first..].chunks_exact(3).zip(weights) {
                for (sum, sample) in sums.iter_mut().zip(pixel) {
                    *sum += sample.weighted(w);
                }
            }
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = S::from_sum(sum);
            }
        }
    }

    /// Vertical pass: output row `y` out of horizontally resized rows of `out.len()` samples; `sums` is scratch of that
    /// length.
    #[inline(always)]
    pub(super) fn column<S: Sample>(&self, sums: &mut [S::Sum], out: &mut [S], rows: &[S], y: usize) {
        let Axis { taps, first, weights } = &self.rows;
        let width = out.len();
        sums.fill(S::HALF);
        for (row, &w) in rows[first[y] * width..].chunks_exact(width).zip(&weights[y * taps..(y + 1) * taps]) {
            for (sum, sample) in sums.iter_mut().zip(row) {
                *sum += sample.weighted(w);
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = S::from_sum(*sum);
        }
    }
}
