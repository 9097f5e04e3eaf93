// SPDX-License-Identifier: MPL-2.0

//! Queries and keys: `kernels/qk.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::tensor::{CudaTensor, Shape, addresses};
use super::{CudaBackend, Kernels, Lifetime, Precision, Weight, index};
use crate::backend::{Grid, HEAD_DIM, KvGroup, Qkv, Rope};
use crate::error::{Error, Result};

const THREADS: u32 = 128;
/// Each warp takes one row.
const ROWS_PER_BLOCK: usize = THREADS as usize / 32;
/// The most frame pairs whose addresses fit into a kernel's arguments.
pub(super) const MAX_GROUPS: usize = 64;

const QK_NORM_ROPE: Kernels = kernels!("qk", "qk_norm_rope", THREADS, [0; 3]);
/// Shared memory: partial sums of a head for each row that one access of a block spans.
const WINDOW_MEANS: Kernels = kernels!("qk", "window_means", THREADS, [4 * 512, 8 * 512, 8 * 512]);

/// `QkArgs` of qk.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct QkArgs {
    qkv: Address,
    norm_q: Address,
    norm_k: Address,
    cos_sin: Address,
    q: Address,
    tokens: u32,
    dim: u32,
    frames: u32,
    rows: u32,
    cols: u32,
    k: [Address; MAX_GROUPS],
    v: [Address; MAX_GROUPS],
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for QkArgs {}

/// `MeanArgs` of qk.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct MeanArgs {
    q: Address,
    q_mean: Address,
    dim: u32,
    group_windows: u32,
    k: [Address; MAX_GROUPS],
    k_mean: [Address; MAX_GROUPS],
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for MeanArgs {}

/// The table of one window's [`Rope`].
pub struct CudaRope {
    /// Rows of (cos, sin): see [`RopeTables::table`](crate::backend::RopeTables::table).
    cos_sin: CudaTensor,
    positions: [usize; 3],
}

/// One address per frame pair, as kernels take them.
pub(super) fn group_addresses<'a>(
    tensors: impl ExactSizeIterator<Item = &'a CudaTensor>,
) -> Result<[Address; MAX_GROUPS]> {
    let count = tensors.len();
    if count > MAX_GROUPS {
        return Err(Error::Compute(format!(
            "{count} frame pairs of keys are more than the {MAX_GROUPS} that the CUDA backend takes: lower kv-ratio"
        )));
    }
    Ok(addresses(tensors))
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn upload_rope(&self, rope: &Rope) -> Result<CudaRope> {
        let cos_sin: Vec<f32> = rope.tables().table().flat_map(|(cos, sin)| [cos, sin]).collect();
        let cos_sin = self.upload(Shape::Matrix(cos_sin.len() / 2, 2), Precision::F32, &cos_sin)?;
        Ok(CudaRope { cos_sin, positions: rope.positions() })
    }

    pub(super) fn run_qk_norm_rope(
        &self,
        qkv: &CudaTensor,
        norm_q: &Weight,
        norm_k: &Weight,
        rope: &CudaRope,
        grid: Grid,
    ) -> Result<Qkv<CudaTensor>> {
        let (tokens, cols) = qkv.matrix_dims()?;
        let dim = cols / 3;
        let fits = tokens == grid.tokens()
            && tokens > 0
            && cols == 3 * dim
            && dim > 0
            && dim.is_multiple_of(HEAD_DIM)
            && rope.positions == [grid.frames, grid.rows, grid.cols];
        if !fits {
            return Err(Error::Compute(format!("qkv of {tokens} x {cols}, RoPE of {:?} for {grid:?}", rope.positions)));
        }
        let means = |windows, lifetime| self.tensor_for(lifetime, Shape::Matrix(windows, dim), Precision::F32);
        let q = self.empty_tiled_qkv(Lifetime::Window, tokens, dim)?;
        let q_mean = means(grid.groups() * grid.windows(), Lifetime::Window)?;
        let group = || {
            let kv = || self.empty_tiled_qkv(Lifetime::Cache, tokens / grid.groups(), dim);
            Ok(KvGroup { k: kv()?, v: kv()?, k_mean: means(grid.windows(), Lifetime::Cache)? })
        };
        let groups = (0..grid.groups()).map(|_| group()).collect::<Result<Vec<_>>>()?;

        let k = group_addresses(groups.iter().map(|g| &g.k))?;
        let args = QkArgs {
            qkv: qkv.address(),
            norm_q: norm_q.address(),
            norm_k: norm_k.address(),
            cos_sin: rope.cos_sin.address(),
            q: q.address(),
            tokens: index(tokens)?,
            dim: index(dim)?,
            frames: index(grid.frames)?,
            rows: index(grid.rows)?,
            cols: index(grid.cols)?,
            k,
            v: group_addresses(groups.iter().map(|g| &g.v))?,
        };
        self.launch(&QK_NORM_ROPE, [tokens.div_ceil(ROWS_PER_BLOCK), 3, 1], &args)?;
        let args = MeanArgs {
            q: q.address(),
            q_mean: q_mean.address(),
            dim: index(dim)?,
            group_windows: index(grid.windows())?,
            k,
            k_mean: group_addresses(groups.iter().map(|g| &g.k_mean))?,
        };
        self.launch(&WINDOW_MEANS, [grid.groups() * grid.windows(), dim / HEAD_DIM, 2], &args)?;
        Ok(Qkv { q, q_mean, groups })
    }
}
