// SPDX-License-Identifier: MPL-2.0

//! Attention: `kernels/attention.cu`, and `kernels/hopper_attention.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::mask::CudaMask;
use super::qk::{MAX_GROUPS, group_addresses};
use super::tensor::CudaTensor;
use super::{CudaBackend, Kernels, Precision, index};
use crate::backend::{HEAD_DIM, KvGroup, WINDOW_TOKENS};
use crate::error::{Error, Result};

const THREADS: u32 = 128;
/// Bytes of shared memory: in 16 bits 128, 32 and 32 rows of queries, keys and values of a head; in f32 64, 32 and 32 rows
/// padded by 4 values, and the probabilities of 64 queries and 32 keys in rows padded alike.
const SHARED: [u32; 3] = [4 * (128 * 132 + 64 * 36), 2 * 192 * 128, 2 * 192 * 128];

const SPARSE_ATTENTION: Kernels = kernels!("attention", "sparse_attention", THREADS, SHARED);
const CROSS_ATTENTION: Kernels = kernels!("attention", "cross_attention", THREADS, SHARED);

/// Threads of a block on Hopper: two warpgroups that compute, one that loads tiles.
const HOPPER_THREADS: u32 = 3 * 128;
/// Bytes of shared memory on Hopper: two stages of queries and five of keys and values, the work tile, and two barriers for
/// it and for each stage.
const HOPPER_SHARED: u32 = 7 * 2 * 128 * 128 + 16 + 8 * 2 * 8;
/// Hopper's kernel; there is none for f32, which `wgmma` does not multiply.
const HOPPER_SPARSE_ATTENTION: Kernels =
    kernels!("hopper_attention", "hopper_sparse_attention", HOPPER_THREADS, [0, HOPPER_SHARED, HOPPER_SHARED]);

/// `SparseArgs` of attention.cuh.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct SparseArgs {
    q: Address,
    out: Address,
    counts: Address,
    lists: Address,
    order: Address,
    dim: u32,
    query_windows: u32,
    pitch: u32,
    group_windows: u32,
    k: [Address; MAX_GROUPS],
    v: [Address; MAX_GROUPS],
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for SparseArgs {}

/// `HopperArgs` of hopper_attention.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct HopperArgs {
    sparse: SparseArgs,
    work_counter: Address,
    windows: u32,
    blocks: u32,
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for HopperArgs {}

/// `CrossArgs` of attention.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct CrossArgs {
    q: Address,
    k: Address,
    v: Address,
    out: Address,
    dim: u32,
    queries: u32,
    keys: u32,
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for CrossArgs {}

impl<D: Driver> CudaBackend<D> {
    /// Queries that a block takes.
    fn attention_tile(&self) -> usize {
        match self.precision {
            Precision::F32 => 64,
            Precision::Bf16 | Precision::F16 => 128,
        }
    }

    pub(super) fn run_sparse_attention(
        &self,
        q: &CudaTensor,
        groups: &[&KvGroup<CudaTensor>],
        mask: &CudaMask,
    ) -> Result<CudaTensor> {
        let (tokens, dim) = q.tiled_qkv_dims()?;
        let group_windows = mask.key_windows / groups.len().max(1);
        let rows = (group_windows * WINDOW_TOKENS, dim);
        let mut fits = mask.heads * HEAD_DIM == dim
            && tokens == mask.query_windows * WINDOW_TOKENS
            && mask.key_windows == group_windows * groups.len();
        for tensor in groups.iter().flat_map(|g| [&g.k, &g.v]) {
            fits &= tensor.tiled_qkv_dims()? == rows;
        }
        if !fits {
            return Err(Error::Compute(format!(
                "attention of {tokens} x {dim} to {} frame pairs with a mask of {} heads, {} by {} windows",
                groups.len(),
                mask.heads,
                mask.query_windows,
                mask.key_windows
            )));
        }
        let out = self.empty_matrix(tokens, dim)?;
        let args = SparseArgs {
            q: q.address(),
            out: out.address(),
            counts: mask.counts.address(),
            lists: mask.lists.address(),
            order: mask.order.address(),
            dim: index(dim)?,
            query_windows: index(mask.query_windows)?,
            pitch: index(mask.key_windows)?,
            group_windows: index(group_windows)?,
            k: group_addresses(groups.iter().map(|g| &g.k))?,
            v: group_addresses(groups.iter().map(|g| &g.v))?,
        };
        if self.on_warpgroups() {
            let windows = mask.heads * mask.query_windows;
            let blocks = windows.min(self.sm_count);
            let args = HopperArgs {
                sparse: args,
                work_counter: mask.work_counter.address(),
                windows: index(windows)?,
                blocks: index(blocks)?,
            };
            self.launch(&HOPPER_SPARSE_ATTENTION, [blocks, 1, 1], &args)?;
        } else {
            self.launch(&SPARSE_ATTENTION, [tokens / self.attention_tile(), mask.heads, 1], &args)?;
        }
        Ok(out)
    }

    pub(super) fn run_cross_attention(&self, q: &CudaTensor, k: &CudaTensor, v: &CudaTensor) -> Result<CudaTensor> {
        let (tokens, dim) = q.matrix_dims()?;
        let (keys, _) = k.matrix_dims()?;
        let fits = k.matrix_dims()? == (keys, dim) && v.matrix_dims()? == (keys, dim);
        if !fits || tokens == 0 || dim == 0 || dim % HEAD_DIM != 0 {
            return Err(Error::Compute(format!(
                "cross attention of {tokens} x {dim} to keys of {:?} and values of {:?}",
                k.matrix_dims()?,
                v.matrix_dims()?
            )));
        }
        let out = self.empty_matrix(tokens, dim)?;
        let args = CrossArgs {
            q: q.address(),
            k: k.address(),
            v: v.address(),
            out: out.address(),
            dim: index(dim)?,
            queries: index(tokens)?,
            keys: index(keys)?,
        };
        self.launch(&CROSS_ATTENTION, [tokens.div_ceil(self.attention_tile()), dim / HEAD_DIM, 1], &args)?;
        Ok(out)
    }
}
