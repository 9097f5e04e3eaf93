// SPDX-License-Identifier: MPL-2.0

//! The emulated GPU's library of GEMMs: what [`Gemm`] says, in plain loops.

use rayon::prelude::*;

use crate::backend::cuda::driver::{Address, Gemm};
use crate::backend::{decode, encode};

/// Computes a GEMM.
pub(super) fn gemm(gemm: &Gemm) {
    let &Gemm { rows, columns, inputs, depth, precision, .. } = gemm;
    let bytes = |address: Address, values: usize| {
        // SAFETY: the engine multiplies in memory that it has allocated for matrices of these sizes.
        unsafe { std::slice::from_raw_parts(address as *const u8, values * precision.bytes()) }
    };
    let read = |address, values| decode(bytes(address, values), precision);
    let (x, weights) = (read(gemm.x, rows * inputs), read(gemm.weights, (columns - 1) * depth + inputs));
    let bias = read(gemm.bias, columns);
    let residual = if gemm.residual == 0 { Vec::new() } else { read(gemm.residual, rows * columns) };
    let mut out = vec![0.0; rows * columns];
    out.par_chunks_mut(columns).enumerate().for_each(|(row, out)| {
        let x = &x[row * inputs..][..inputs];
        for (column, out) in out.iter_mut().enumerate() {
            let sum: f32 = x.iter().zip(&weights[column * depth..]).map(|(x, w)| x * w).sum();
            let sum = sum + bias[column];
            let y = if gemm.gelu { gelu(sum) } else { sum };
            *out = y + residual.get(row * columns + column).unwrap_or(&0.0);
        }
    });
    let out = encode(&out, precision);
    // SAFETY: as above; nothing else is at work on it.
    unsafe { std::ptr::copy_nonoverlapping(out.as_ptr(), gemm.out as *mut u8, out.len()) };
}

/// GELU in its tanh form.
fn gelu(x: f32) -> f32 {
    let u = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}
