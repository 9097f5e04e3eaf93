// SPDX-License-Identifier: MPL-2.0

//! Operations on token rows: linear layers with their epilogues, norms, RoPE, patches.

use rayon::prelude::*;

use super::matmul::{Rows, Start};
use super::simd::{gelu, sum_of, vectorised};
use super::tensor::{CpuTensor, Halo, MapDims};
use super::{CpuBackend, CpuLinear};
use crate::backend::{Epilogue, Grid, HEAD_DIM, KvGroup, Qkv, RopeTables, WINDOW_TOKENS};
use crate::error::{Error, Result};

const EPS: f32 = 1e-6;
/// Rows that one task of a row-wise loop takes.
const ROWS_PER_TASK: usize = 32;
/// Rows that one task of a linear layer takes at most: enough to make reading the weights cheap.
const MAX_TASK_ROWS: usize = 1024;

/// Calls `f` with each output row and its index, in parallel.
fn for_rows(out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    out.par_chunks_mut(ROWS_PER_TASK * cols).enumerate().for_each(|(task, chunk)| {
        vectorised(
            #[inline(always)]
            || {
                for (i, row) in chunk.chunks_exact_mut(cols).enumerate() {
                    f(task * ROWS_PER_TASK + i, row);
                }
            },
        );
    });
}

pub(super) fn linear(
    threads: usize,
    x: &CpuTensor,
    CpuLinear { weights, gate }: &CpuLinear,
    epilogue: Epilogue<'_, CpuBackend>,
) -> Result<CpuTensor> {
    let gathered;
    let x = if x.is_map() {
        gathered = positions(x)?;
        &gathered
    } else {
        x
    };
    let (rows, len) = x.rows_dims()?;
    let cols = weights.columns();
    if len != weights.depth() {
        return Err(Error::Compute(format!("linear layer {} -> {cols} given rows of {len}", weights.depth())));
    }
    let values = x.values()?;
    let residual = epilogue.residual(gate.is_some())?.map(|residual| same_rows(residual, rows, cols)).transpose()?;
    let residual = residual.as_deref().unwrap_or_default();
    let mut out = vec![0.0f32; rows * cols];
    let task_rows = rows.div_ceil(threads).clamp(1, MAX_TASK_ROWS);
    out.par_chunks_mut(task_rows * cols).enumerate().for_each(|(task, out)| {
        let first = task * task_rows;
        let left = Rows { values: &values[first * len..], stride: len, len };
        weights.multiply(&[left], out.len() / cols, out, cols, Start::Bias, false);
        vectorised(
            #[inline(always)]
            || match epilogue {
                Epilogue::None => {}
                Epilogue::Gelu => out.iter_mut().for_each(|v| *v = gelu(*v)),
                Epilogue::Add(_) => match gate {
                    None => out.iter_mut().zip(&residual[first * cols..]).for_each(|(v, r)| *v += r),
                    Some(gate) => {
                        let residual = residual[first * cols..].chunks_exact(cols);
                        for (out, residual) in out.chunks_exact_mut(cols).zip(residual) {
                            out.iter_mut().zip(residual).zip(gate).for_each(|((v, r), g)| *v = r + g * *v);
                        }
                    }
                },
            },
        );
    });
    CpuTensor::rows(out, cols)
}

fn same_rows(x: &CpuTensor, rows: usize, cols: usize) -> Result<super::tensor::Values<'_>> {
    match x.rows_dims()? {
        dims if dims == (rows, cols) => x.values(),
        dims => Err(Error::Compute(format!("residual of {dims:?} for a result of {rows} x {cols}"))),
    }
}

/// The positions of a map as rows.
fn positions(map: &CpuTensor) -> Result<CpuTensor> {
    let dims = map.map_dims()?;
    let values = map.values()?;
    let row = dims.width * dims.channels;
    let mut out = Vec::with_capacity(dims.height * row);
    for y in 0..dims.height {
        out.extend_from_slice(&values[dims.at(y, 0)..][..row]);
    }
    CpuTensor::rows(out, dims.channels)
}

pub(super) fn layer_norm(x: &CpuTensor, scale: &[f32], shift: &[f32]) -> Result<CpuTensor> {
    let (rows, cols) = x.rows_dims()?;
    let x = x.values()?;
    let mut out = vec![0.0f32; rows * cols];
    for_rows(&mut out, cols, |i, row| {
        let x = &x[i * cols..(i + 1) * cols];
        let mean = sum_of(x, |v| v) / cols as f32;
        let variance = sum_of(x, |v| (v - mean) * (v - mean)) / cols as f32;
        let inverse = 1.0 / (variance + EPS).sqrt();
        for (((out, &x), &scale), &shift) in row.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = (x - mean) * inverse * scale + shift;
        }
    });
    CpuTensor::rows(out, cols)
}

#[inline(always)]
fn rms_norm_row(out: &mut [f32], x: &[f32], gamma: &[f32]) {
    let inverse = 1.0 / (sum_of(x, |v| v * v) / x.len() as f32 + EPS).sqrt();
    for ((out, &x), &gamma) in out.iter_mut().zip(x).zip(gamma) {
        *out = x * inverse * gamma;
    }
}

pub(super) fn rms_norm(x: &CpuTensor, gamma: &[f32]) -> Result<CpuTensor> {
    let (rows, cols) = x.rows_dims()?;
    let x = x.values()?;
    let mut out = vec![0.0f32; rows * cols];
    for_rows(&mut out, cols, |i, row| rms_norm_row(row, &x[i * cols..(i + 1) * cols], gamma));
    CpuTensor::rows(out, cols)
}

/// Rotates the neighbouring channel pairs of each head.
#[inline(always)]
fn rotate(row: &mut [f32], cos_sin: &[(f32, f32); HEAD_DIM / 2]) {
    for head in row.chunks_exact_mut(HEAD_DIM) {
        for (pair, &(cos, sin)) in head.chunks_exact_mut(2).zip(cos_sin) {
            let (re, im) = (pair[0], pair[1]);
            pair[0] = re * cos - im * sin;
            pair[1] = re * sin + im * cos;
        }
    }
}

#[inline(always)]
fn mean_row(out: &mut [f32], rows: &[f32]) {
    let cols = out.len();
    for row in rows.chunks_exact(cols) {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += v);
    }
    let scale = 1.0 / (rows.len() / cols) as f32;
    out.iter_mut().for_each(|o| *o *= scale);
}

pub(super) fn qk_norm_rope(
    qkv: &CpuTensor,
    norm_q: &[f32],
    norm_k: &[f32],
    rope: &RopeTables,
    grid: Grid,
) -> Result<Qkv<CpuTensor>> {
    let (rows, cols) = qkv.rows_dims()?;
    let dim = cols / 3;
    if rows != grid.tokens() || norm_q.len() != dim || norm_k.len() != dim || dim % HEAD_DIM != 0 {
        return Err(Error::Compute(format!("qkv of {rows} x {cols} for {grid:?} and norms of {}", norm_q.len())));
    }
    let qkv = qkv.values()?;
    let windows = grid.windows();
    let window = WINDOW_TOKENS * dim;
    let mut q = vec![0.0f32; rows * dim];
    let mut q_mean = vec![0.0f32; grid.groups() * windows * dim];
    let mut groups = Vec::with_capacity(grid.groups());
    for group in 0..grid.groups() {
        let mut k = vec![0.0f32; windows * window];
        let mut v = vec![0.0f32; windows * window];
        let mut k_mean = vec![0.0f32; windows * dim];
        let q = &mut q[group * windows * window..][..windows * window];
        let q_mean = &mut q_mean[group * windows * dim..][..windows * dim];
        (q.par_chunks_mut(window), k.par_chunks_mut(window), v.par_chunks_mut(window))
            .into_par_iter()
            .zip(q_mean.par_chunks_mut(dim).zip(k_mean.par_chunks_mut(dim)))
            .enumerate()
            .for_each(|(i, ((q, k, v), (q_mean, k_mean)))| {
                vectorised(
                    #[inline(always)]
                    || {
                        let first = (group * windows + i) * WINDOW_TOKENS;
                        for t in 0..WINDOW_TOKENS {
                            let (frame, row, col) = grid.position(first + t);
                            let mut cos_sin = [(0.0f32, 0.0f32); HEAD_DIM / 2];
                            cos_sin.iter_mut().zip(rope.pairs(frame, row, col)).for_each(|(slot, pair)| *slot = pair);
                            let source = &qkv[(first + t) * cols..(first + t + 1) * cols];
                            let (q, k) = (&mut q[t * dim..(t + 1) * dim], &mut k[t * dim..(t + 1) * dim]);
                            rms_norm_row(q, &source[..dim], norm_q);
                            rotate(q, &cos_sin);
                            rms_norm_row(k, &source[dim..2 * dim], norm_k);
                            rotate(k, &cos_sin);
                            v[t * dim..(t + 1) * dim].copy_from_slice(&source[2 * dim..]);
                        }
                        mean_row(q_mean, q);
                        mean_row(k_mean, k);
                    },
                );
            });
        groups.push(KvGroup {
            k: CpuTensor::rows(k, dim)?,
            v: CpuTensor::rows(v, dim)?,
            k_mean: CpuTensor::rows(k_mean, dim)?,
        });
    }
    Ok(Qkv { q: CpuTensor::rows(q, dim)?, q_mean: CpuTensor::rows(q_mean, dim)?, groups })
}

/// Checks that `maps` are the latents of `grid`, and gives their dims.
fn latent_dims(maps: &[CpuTensor], grid: Grid) -> Result<MapDims> {
    let expected = |m: &CpuTensor| Ok::<_, Error>(m.map_dims()?).map(|d| (d.height, d.width));
    match maps.first() {
        Some(first) if maps.len() == grid.frames && expected(first)? == (2 * grid.rows, 2 * grid.cols) => {
            first.map_dims()
        }
        _ => Err(Error::Compute(format!("{} latent frames do not fit {grid:?}", maps.len()))),
    }
}

pub(super) fn embed_patches(
    threads: usize,
    latents: &[CpuTensor],
    layer: &CpuLinear,
    lq: &[CpuTensor],
    grid: Grid,
) -> Result<CpuTensor> {
    let dims = latent_dims(latents, grid)?;
    let run = 2 * dims.channels;
    let maps = latents.iter().map(CpuTensor::values).collect::<Result<Vec<_>>>()?;
    let mut patches = vec![0.0f32; grid.tokens() * 2 * run];
    for_rows(&mut patches, 2 * run, |i, patch| {
        let (frame, row, col) = grid.position(i);
        for (dy, half) in patch.chunks_exact_mut(run).enumerate() {
            half.copy_from_slice(&maps[frame][dims.at(2 * row + dy, 2 * col)..][..run]);
        }
    });
    let dim = layer.weights.columns();
    if lq.len() != grid.frames {
        return Err(Error::Compute(format!("{} frames of LQ tokens for {grid:?}", lq.len())));
    }
    let lq = lq.iter().map(|l| same_rows(l, grid.rows * grid.cols, dim)).collect::<Result<Vec<_>>>()?;
    let mut residual = vec![0.0f32; grid.tokens() * dim];
    for_rows(&mut residual, dim, |i, out| {
        let (frame, row, col) = grid.position(i);
        out.copy_from_slice(&lq[frame][(row * grid.cols + col) * dim..][..dim]);
    });
    let residual = CpuTensor::rows(residual, dim)?;
    linear(threads, &CpuTensor::rows(patches, 2 * run)?, layer, Epilogue::Add(&residual))
}

pub(super) fn denoise(noise: &[CpuTensor], head: &CpuTensor, grid: Grid) -> Result<Vec<CpuTensor>> {
    let dims = latent_dims(noise, grid)?;
    let run = 2 * dims.channels;
    let head = same_rows(head, grid.tokens(), 2 * run)?;
    let mut out = noise.iter().map(|n| Ok(n.with_halo(Halo::Zero)?.values()?.to_vec())).collect::<Result<Vec<_>>>()?;
    for (i, prediction) in head.chunks_exact(2 * run).enumerate() {
        let (frame, row, col) = grid.position(i);
        for (dy, half) in prediction.chunks_exact(run).enumerate() {
            let target = &mut out[frame][dims.at(2 * row + dy, 2 * col)..][..run];
            target.iter_mut().zip(half).for_each(|(t, p)| *t -= p);
        }
    }
    out.into_iter().map(|map| CpuTensor::map(map, dims, Halo::Zero)).collect()
}
