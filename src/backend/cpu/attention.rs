// SPDX-License-Identifier: MPL-2.0

//! Draft mask, block-sparse attention, cross attention.

use rayon::prelude::*;

use super::CpuMask;
use super::gemm::{Into, View, gemm};
use super::simd::{exp, max_of, vectorised};
use super::tensor::CpuTensor;
use crate::backend::{DraftMask, HEAD_DIM, KvGroup, WINDOW_TOKENS};
use crate::error::{Error, Result};

/// Keys whose scores are held at a time: a tile of 128 queries by this many stays in the second-level cache.
const KEYS_PER_TILE: usize = 1024;

fn score_scale() -> f32 {
    1.0 / (HEAD_DIM as f32).sqrt()
}

pub(super) fn draft_mask(q_mean: &CpuTensor, k_means: &[&CpuTensor], params: &DraftMask) -> Result<CpuMask> {
    let (queries, dim) = q_mean.rows_dims()?;
    let windows = params.window_rows * params.window_cols;
    if windows == 0 || queries % windows != 0 || dim % HEAD_DIM != 0 {
        return Err(Error::Compute(format!("draft mask of {queries} x {dim} for {params:?}")));
    }
    let mut keys = Vec::new();
    for k_mean in k_means {
        match k_mean.rows_dims()? {
            dims if dims == (windows, dim) => keys.extend_from_slice(&k_mean.values()?),
            dims => return Err(Error::Compute(format!("mean keys of {dims:?} for {windows} windows of {dim}"))),
        }
    }
    let (heads, key_windows) = (dim / HEAD_DIM, windows * k_means.len());
    let q = q_mean.values()?;
    // One table per head and query frame pair, in that order, so that rows come out as [head][query window].
    let tables: Vec<(usize, usize)> = (0..heads).flat_map(|h| (0..queries / windows).map(move |g| (h, g))).collect();
    let rows: Vec<Vec<Vec<u32>>> = tables
        .into_par_iter()
        .map(|(head, group)| {
            let mut table = vec![0.0f32; windows * key_windows];
            let head_of = |rows, count| View::new(rows, count, HEAD_DIM, dim);
            let q = head_of(&q[group * windows * dim + head * HEAD_DIM..], windows);
            let k = head_of(&keys[head * HEAD_DIM..], key_windows);
            gemm(&mut table, key_windows, q, k.t(), score_scale(), Into::Overwrite, 1);
            for (query, row) in table.chunks_exact_mut(key_windows).enumerate() {
                for (key, score) in row.iter_mut().enumerate() {
                    if !is_local(query, key % windows, params) {
                        *score = f32::NEG_INFINITY;
                    }
                }
                softmax(row);
            }
            let threshold = threshold(&table, params.top_k);
            table
                .chunks_exact(key_windows)
                .map(|row| (0u32..).zip(row).filter(|(_, p)| **p > threshold).map(|(key, _)| key).collect())
                .collect()
        })
        .collect();
    Ok(CpuMask { heads, key_windows, rows: rows.into_iter().flatten().collect() })
}

/// Whether spatial window `key` lies in the neighbourhood of `query`; cut off at the picture's border, not shifted.
fn is_local(query: usize, key: usize, params: &DraftMask) -> bool {
    let near = |query: usize, key: usize| {
        let first = query as isize - (params.local_range / 2) as isize;
        (first..first + params.local_range as isize).contains(&(key as isize))
    };
    near(query / params.window_cols, key / params.window_cols)
        && near(query % params.window_cols, key % params.window_cols)
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for v in row.iter_mut() {
        *v = (*v - max).exp();
        sum += *v;
    }
    row.iter_mut().for_each(|v| *v /= sum);
}

/// The value that an entry must exceed: the (top_k + 1)-th largest, or the smallest of a table that is no larger.
fn threshold(table: &[f32], top_k: usize) -> f32 {
    let rank = top_k.min(table.len() - 1);
    let mut sorted = table.to_vec();
    *sorted.select_nth_unstable_by(rank, |a, b| b.total_cmp(a)).1
}

pub(super) fn block_sparse_attention(
    q: &CpuTensor,
    groups: &[&KvGroup<CpuTensor>],
    mask: &CpuMask,
) -> Result<CpuTensor> {
    let (tokens, dim) = q.rows_dims()?;
    let keys = groups.iter().map(|g| g.k.values()).collect::<Result<Vec<_>>>()?;
    let values = groups.iter().map(|g| g.v.values()).collect::<Result<Vec<_>>>()?;
    let query_windows = tokens / WINDOW_TOKENS;
    let group_windows = mask.key_windows / groups.len().max(1);
    let window = WINDOW_TOKENS * dim;
    let fits = mask.heads * HEAD_DIM == dim
        && mask.rows.len() == mask.heads * query_windows
        && keys.iter().chain(&values).all(|x| x.len() == group_windows * window);
    if !fits {
        return Err(Error::Compute(format!("attention of {tokens} x {dim} with a mask of {} rows", mask.rows.len())));
    }
    let q = q.values()?;
    let mut out = vec![0.0f32; tokens * dim];
    // A task is one query window with all heads: its part of the result is contiguous.
    out.par_chunks_mut(window).enumerate().for_each(|(query, out)| {
        let mut tile = AttentionTile::new(WINDOW_TOKENS, KEYS_PER_TILE);
        for head in 0..mask.heads {
            let column = head * HEAD_DIM;
            let row = &mask.rows[head * query_windows + query];
            let blocks = row.iter().map(|&key| {
                let (group, at) = (key as usize / group_windows, key as usize % group_windows * window + column);
                let block = |x| View::new(x, WINDOW_TOKENS, HEAD_DIM, dim);
                (block(&keys[group][at..]), block(&values[group][at..]))
            });
            let q = View::new(&q[query * window + column..], WINDOW_TOKENS, HEAD_DIM, dim);
            tile.attend(q, blocks, &mut out[column..], dim);
        }
    });
    CpuTensor::rows(out, dim)
}

pub(super) fn cross_attention(q: &CpuTensor, k: &CpuTensor, v: &CpuTensor) -> Result<CpuTensor> {
    let (tokens, dim) = q.rows_dims()?;
    let (context, _) = k.rows_dims()?;
    if k.rows_dims()? != (context, dim) || v.rows_dims()? != (context, dim) || dim % HEAD_DIM != 0 {
        return Err(Error::Compute(format!("cross attention of {tokens} x {dim} to {:?}", k.rows_dims()?)));
    }
    let (q, k, v) = (q.values()?, k.values()?, v.values()?);
    let mut out = vec![0.0f32; tokens * dim];
    out.par_chunks_mut(WINDOW_TOKENS * dim).enumerate().for_each(|(chunk, out)| {
        let rows = out.len() / dim;
        let mut tile = AttentionTile::new(rows, KEYS_PER_TILE.min(context));
        for column in (0..dim).step_by(HEAD_DIM) {
            let blocks = (0..context).step_by(WINDOW_TOKENS).map(|first| {
                let block = |x| View::new(x, WINDOW_TOKENS.min(context - first), HEAD_DIM, dim);
                (block(&k[first * dim + column..]), block(&v[first * dim + column..]))
            });
            let q = View::new(&q[chunk * WINDOW_TOKENS * dim + column..], rows, HEAD_DIM, dim);
            tile.attend(q, blocks, &mut out[column..], dim);
        }
    });
    CpuTensor::rows(out, dim)
}

/// Attention of a tile of queries to any number of key blocks, softmax on the way: scores of at most [`KEYS_PER_TILE`] keys
/// are held, with the running maximum and sum of each query (Milakov, Gimelshein: "Online normalizer calculation for
/// softmax", 2018).
struct AttentionTile {
    scores: Vec<f32>,
    capacity: usize,
    max: Vec<f32>,
    sum: Vec<f32>,
}

impl AttentionTile {
    fn new(queries: usize, keys: usize) -> Self {
        Self { scores: vec![0.0; queries * keys], capacity: keys, max: vec![0.0; queries], sum: vec![0.0; queries] }
    }

    /// Writes the result into `out`, rows `stride` apart, which holds zeros: a tile without keys leaves them.
    fn attend<'a>(
        &mut self,
        q: View<'_>,
        blocks: impl Iterator<Item = (View<'a>, View<'a>)>,
        out: &mut [f32],
        stride: usize,
    ) {
        self.max.fill(f32::NEG_INFINITY);
        self.sum.fill(0.0);
        let mut blocks = blocks.peekable();
        let mut pending = Vec::with_capacity(self.capacity / WINDOW_TOKENS + 1);
        while blocks.peek().is_some() {
            let mut keys = 0;
            while let Some((k, v)) = blocks.next_if(|(k, _)| keys + k.rows <= self.capacity) {
                gemm(&mut self.scores[keys..], self.capacity, q, k.t(), score_scale(), Into::Overwrite, 1);
                pending.push((keys, v));
                keys += k.rows;
            }
            self.normalise(keys, out, stride);
            for (first, v) in pending.drain(..) {
                let p = View::new(&self.scores[first..], q.rows, v.rows, self.capacity);
                gemm(out, stride, p, v, 1.0, Into::Accumulate, 1);
            }
        }
        vectorised(
            #[inline(always)]
            || {
                for (row, sum) in out.chunks_mut(stride).zip(&self.sum) {
                    let scale = if *sum > 0.0 { 1.0 / sum } else { 1.0 };
                    row[..HEAD_DIM].iter_mut().for_each(|v| *v *= scale);
                }
            },
        );
    }

    /// Turns the scores of `keys` keys into weights relative to the new maximum, and rescales what is in `out` to it.
    fn normalise(&mut self, keys: usize, out: &mut [f32], stride: usize) {
        let Self { scores, capacity, max, sum } = self;
        vectorised(
            #[inline(always)]
            || {
                let rows = scores.chunks_mut(*capacity).zip(out.chunks_mut(stride));
                for ((row, out), (max, sum)) in rows.zip(max.iter_mut().zip(sum.iter_mut())) {
                    let row = &mut row[..keys];
                    let new = max_of(row).max(*max);
                    let rescale = exp(*max - new);
                    row.iter_mut().for_each(|v| *v = exp(*v - new));
                    *sum = *sum * rescale + super::simd::sum_of(row, |v| v);
                    if rescale != 1.0 {
                        out[..HEAD_DIM].iter_mut().for_each(|v| *v *= rescale);
                    }
                    *max = new;
                }
            },
        );
    }
}
