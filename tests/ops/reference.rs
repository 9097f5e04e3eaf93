// SPDX-License-Identifier: MPL-2.0

//! Arrays in f64, and how a backend's results are held against them.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};
use gstflashvsr::backend::{Backend, Grid, HostTensor};

use crate::common::{tensor, uniform, unit_variance};

/// How the backend under test stores rows and maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    F32,
    #[cfg_attr(
        not(any(feature = "emulator", feature = "gpu-tests")),
        expect(dead_code, reason = "the CPU backend stores f32")
    )]
    Bf16,
    #[cfg_attr(
        not(any(feature = "emulator", feature = "gpu-tests")),
        expect(dead_code, reason = "the CPU backend stores f32")
    )]
    F16,
}

thread_local! {
    static STORAGE: Cell<Storage> = const { Cell::new(Storage::F32) };
}

/// From here on in this test, arrays hold values that `storage` can hold, and results may be as far off as it makes them.
#[cfg_attr(
    not(any(feature = "emulator", feature = "gpu-tests")),
    expect(dead_code, reason = "the CPU backend stores f32")
)]
pub fn store_as(storage: Storage) {
    STORAGE.set(storage);
}

/// The nearest value that the backend under test can store.
pub fn stored(value: f64) -> f64 {
    match STORAGE.get() {
        Storage::F32 => f64::from(value as f32),
        Storage::Bf16 => half::bf16::from_f32(value as f32).to_f64(),
        Storage::F16 => half::f16::from_f32(value as f32).to_f64(),
    }
}

/// Error allowed, relative to the largest expected value or 1: some tens of units in the last place of f32, or two of the
/// 16-bit types (one for the result, one for what was rounded on the way).
pub fn tolerance() -> f64 {
    match STORAGE.get() {
        Storage::F32 => 1e-5,
        Storage::Bf16 => 2f64.powi(-7),
        Storage::F16 => 2f64.powi(-10),
    }
}

/// An array in f64, row-major.
#[derive(Debug, Clone)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Array {
    /// Values of mean 0 and deviation `scale`, exact in storage; a function of the name and the shape.
    pub fn random(name: &str, shape: &[usize], scale: f64) -> Self {
        let values = uniform(&format!("{name}{shape:?}"), shape.iter().product(), scale * unit_variance(), 0.0, 1);
        Self { shape: shape.to_vec(), values: values.into_iter().map(|v| stored(v.into())).collect() }
    }

    /// [`Array::random`] values around `offset`, exact in storage.
    pub fn around(name: &str, shape: &[usize], scale: f64, offset: f32) -> Self {
        let Self { shape, values } = Self::random(name, shape, scale);
        Self { shape, values: values.into_iter().map(|v| stored(v + f64::from(offset))).collect() }
    }

    /// One value per index.
    pub fn build<const N: usize>(shape: [usize; N], mut value: impl FnMut([usize; N]) -> f64) -> Self {
        let values = (0..shape.iter().product())
            .map(|flat: usize| {
                let (mut index, mut rest) = ([0; N], flat);
                for axis in (0..N).rev() {
                    (index[axis], rest) = (rest % shape[axis], rest / shape[axis]);
                }
                value(index)
            })
            .collect();
        Self { shape: shape.to_vec(), values }
    }

    /// What a backend gave.
    pub fn of_host(host: &HostTensor) -> Self {
        let values = host.flatten_all().and_then(|t| t.to_dtype(DType::F64)).and_then(|t| t.to_vec1());
        Self { shape: host.dims().to_vec(), values: values.expect("a tensor on the host") }
    }

    /// What a backend holds.
    pub fn of<B: Backend>(b: &B, x: &B::Tensor) -> Self {
        Self::of_host(&b.to_host(x).expect("a tensor on the host"))
    }

    #[track_caller]
    pub fn at<const N: usize>(&self, index: [usize; N]) -> f64 {
        assert_eq!(self.shape.len(), N, "an index of another rank");
        let flat = index.iter().zip(&self.shape).fold(0, |flat, (&i, &n)| {
            assert!(i < n, "{index:?} lies outside {:?}", self.shape);
            flat * n + i
        });
        self.values[flat]
    }

    /// A row of the last dimension.
    pub fn row(&self, index: usize) -> &[f64] {
        let width = self.shape[self.shape.len() - 1];
        &self.values[index * width..(index + 1) * width]
    }

    pub fn map_values(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { shape: self.shape.clone(), values: self.values.iter().map(|&v| f(v)).collect() }
    }

    pub fn host(&self) -> Tensor {
        tensor(self.floats(), &self.shape)
    }

    fn floats(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    /// As rows of a backend.
    pub fn rows<B: Backend>(&self, b: &B) -> B::Tensor {
        b.rows(&self.floats(), self.shape[0], self.shape[1]).expect("rows")
    }

    /// As queries, keys or values of a backend.
    pub fn heads<B: Backend>(&self, b: &B) -> B::Tensor {
        b.heads(&self.floats(), self.shape[0], self.shape[1]).expect("heads")
    }

    /// As a map of a backend.
    pub fn map<B: Backend>(&self, b: &B) -> B::Tensor {
        b.map(&self.host()).expect("a map")
    }

    /// As a picture of a backend.
    pub fn picture<B: Backend>(&self, b: &B) -> B::Tensor {
        b.picture(&self.host()).expect("a picture")
    }

    /// As a vector of a backend.
    pub fn vector<B: Backend>(&self, b: &B) -> B::Vector {
        b.vector(&self.host()).expect("a vector")
    }
}

/// `got` has the shape of `want` and lies within [`tolerance`] of it.
#[track_caller]
pub fn agrees<B: Backend>(b: &B, case: &str, got: &B::Tensor, want: &Array) {
    agrees_within(b, case, got, want, tolerance());
}

/// [`agrees`] within another tolerance, if that is larger.
#[track_caller]
pub fn agrees_within<B: Backend>(b: &B, case: &str, got: &B::Tensor, want: &Array, tolerance: f64) {
    let got = Array::of(b, got);
    assert_eq!(got.shape, want.shape, "{case}: shape");
    let tolerance = tolerance.max(self::tolerance());
    let scale = want.values.iter().fold(1.0, |m: f64, v| m.max(v.abs()));
    for (i, (g, w)) in got.values.iter().zip(&want.values).enumerate() {
        assert!((g - w).abs() <= tolerance * scale, "{case}: element {i} of {:?} is {g}, expected {w}", want.shape);
    }
}

/// `got` equals `want` as stored.
#[track_caller]
pub fn equals<B: Backend>(b: &B, case: &str, got: &B::Tensor, want: &Array) {
    let got = Array::of(b, got);
    assert_eq!(got.shape, want.shape, "{case}: shape");
    for (i, (g, w)) in got.values.iter().zip(&want.values).enumerate() {
        assert!(*g == stored(*w), "{case}: element {i} of {:?} is {g}, expected {w}", want.shape);
    }
}

/// Frame, row and column of every token in window order, by counting.
pub fn window_order(grid: Grid) -> Vec<(usize, usize, usize)> {
    let mut order = Vec::new();
    for pair in 0..grid.frames / 2 {
        for window_row in 0..grid.rows / 8 {
            for window_col in 0..grid.cols / 8 {
                for frame in 0..2 {
                    for row in 0..8 {
                        for col in 0..8 {
                            order.push((2 * pair + frame, 8 * window_row + row, 8 * window_col + col));
                        }
                    }
                }
            }
        }
    }
    order
}

/// A logistic curve that does not overflow.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// Softmax of scores, of which at least one is finite.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|p| p / sum).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A tensor on the host of 32-bit floats.
pub fn constant(value: f32, shape: &[usize]) -> Tensor {
    Tensor::full(value, shape, &Device::Cpu).expect("a constant")
}

#[test]
fn grid_counts_tokens_in_window_order() {
    for (frames, rows, cols) in [(2, 8, 8), (2, 8, 24), (6, 16, 8), (4, 24, 16)] {
        let grid = Grid { frames, rows, cols };
        let order = window_order(grid);
        assert_eq!(order.len(), grid.tokens());
        for (token, position) in order.into_iter().enumerate() {
            assert_eq!(grid.position(token), position, "token {token} of {grid:?}");
        }
    }
}
