// SPDX-License-Identifier: MPL-2.0

//! The draft mask: `kernels/mask.cu`.

use candle_core::{Device, Tensor};

use super::driver::{Address, Args, Driver, Kernel, Queue, kernels};
use super::qk::{MAX_GROUPS, group_addresses};
use super::tensor::{CudaTensor, Shape};
use super::{CudaBackend, Kernels, Precision, index};
use crate::backend::{DraftMask, HEAD_DIM, HostTensor};
use crate::error::{Error, Result};

/// Query windows that a block of `draft_scores` takes.
const QUERIES: usize = 4;
/// Rows that a block of `draft_list` takes, a warp each.
const LISTS: usize = 4;
/// Rows that a block of `draft_order` takes.
const ORDERED: usize = 128;

/// Shared memory: [`QUERIES`] mean queries, and a value of each query for each warp.
const DRAFT_SCORES: Kernels = kernels!("mask", "draft_scores", 256, [(4 * QUERIES * (HEAD_DIM + 8)) as u32; 3]);
/// Shared memory: four copies of a histogram of 1024 bins, their sums, and the digit that is found.
const DRAFT_SELECT: Kernel = Kernel { file: "mask", name: "draft_select", threads: 1024, shared: 1024 * (16 + 4) + 32 };
const DRAFT_LIST: Kernel = Kernel { file: "mask", name: "draft_list", threads: 32 * LISTS as u32, shared: 0 };
const DRAFT_ORDER: Kernel = Kernel { file: "mask", name: "draft_order", threads: ORDERED as u32, shared: 0 };

/// `ScoreArgs` of mask.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ScoreArgs {
    q_mean: Address,
    table: Address,
    dim: u32,
    queries: u32,
    keys: u32,
    windows: u32,
    window_cols: u32,
    local_range: u32,
    k_means: [Address; MAX_GROUPS],
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for ScoreArgs {}

/// `SelectArgs` of mask.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct SelectArgs {
    table: Address,
    thresholds: Address,
    entries: u32,
    rank: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for SelectArgs {}

/// `ListArgs` of mask.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ListArgs {
    table: Address,
    counts: Address,
    thresholds: Address,
    rows: u32,
    windows: u32,
    keys: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for ListArgs {}

/// `OrderArgs` of mask.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct OrderArgs {
    counts: Address,
    order: Address,
    work_counter: Address,
    queries: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for OrderArgs {}

/// The mask: for each head and query window the list of key windows that it attends to.
pub struct CudaMask {
    /// The number of key windows on each list, as u32.
    pub(super) counts: CudaTensor,
    /// The lists, in ascending order, as u32: rows of `key_windows`, of which the first `counts` are used.
    pub(super) lists: CudaTensor,
    /// The query windows of each head, those with the longest lists first, as u32.
    pub(super) order: CudaTensor,
    /// The number of query windows that attention has fetched, as u32: 0 before and after a launch.
    pub(super) work_counter: CudaTensor,
    pub(super) heads: usize,
    pub(super) query_windows: usize,
    pub(super) key_windows: usize,
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_draft_mask(
        &self,
        q_mean: &CudaTensor,
        k_means: &[&CudaTensor],
        params: &DraftMask,
    ) -> Result<CudaMask> {
        let (queries, dim) = q_mean.matrix_dims()?;
        let windows = params.window_rows * params.window_cols;
        let shaped = windows > 0 && queries > 0 && queries % windows == 0 && dim > 0 && dim % HEAD_DIM == 0;
        if !shaped || k_means.is_empty() {
            return Err(Error::Compute(format!(
                "draft mask of {queries} x {dim} and {} frame pairs of keys for {params:?}",
                k_means.len()
            )));
        }
        for k_mean in k_means {
            let dims = k_mean.matrix_dims()?;
            if dims != (windows, dim) || k_mean.precision != q_mean.precision {
                return Err(Error::Compute(format!(
                    "mean keys of {dims:?} in {} for {windows} windows of {dim} in {}",
                    k_mean.precision, q_mean.precision
                )));
            }
        }
        let (heads, keys) = (dim / HEAD_DIM, windows * k_means.len());
        let words = |rows, cols| self.tensor(Shape::Matrix(rows, cols), Precision::F32);
        let tables = heads * (queries / windows);
        let (table, thresholds) = (words(heads * queries, keys)?, words(tables, 1)?);
        let (counts, order, work_counter) = (words(heads, queries)?, words(heads, queries)?, words(1, 1)?);

        let args = ScoreArgs {
            q_mean: q_mean.address(),
            table: table.address(),
            dim: index(dim)?,
            queries: index(queries)?,
            keys: index(keys)?,
            windows: index(windows)?,
            window_cols: index(params.window_cols)?,
            // A range beyond the picture is the picture.
            local_range: index(params.local_range.min(1 << 24))?,
            k_means: group_addresses(k_means.iter().copied())?,
        };
        let scores = &DRAFT_SCORES[q_mean.precision as usize];
        self.launch_one(scores, [queries.div_ceil(QUERIES), heads, 1], &args)?;
        let entries = windows * keys;
        let args = SelectArgs {
            table: table.address(),
            thresholds: thresholds.address(),
            entries: index(entries)?,
            rank: index(params.top_k.min(entries - 1))?,
        };
        self.launch_one(&DRAFT_SELECT, [tables, 1, 1], &args)?;
        let rows = heads * queries;
        let args = ListArgs {
            table: table.address(),
            counts: counts.address(),
            thresholds: thresholds.address(),
            rows: index(rows)?,
            windows: index(windows)?,
            keys: index(keys)?,
        };
        self.launch_one(&DRAFT_LIST, [rows.div_ceil(LISTS), 1, 1], &args)?;
        let args = OrderArgs {
            counts: counts.address(),
            order: order.address(),
            work_counter: work_counter.address(),
            queries: index(queries)?,
        };
        self.launch_one(&DRAFT_ORDER, [queries.div_ceil(ORDERED), heads, 1], &args)?;
        Ok(CudaMask { counts, lists: table, order, work_counter, heads, query_windows: queries, key_windows: keys })
    }

    pub(super) fn download_mask(&self, mask: &CudaMask) -> Result<HostTensor> {
        let words = |tensor: &CudaTensor| -> Result<Vec<u32>> {
            let mut bytes = vec![0; tensor.shape.len() * 4];
            self.queue.download(&mut bytes, tensor.address())?;
            Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
        };
        let (counts, lists) = (words(&mask.counts)?, words(&mask.lists)?);
        let mut dense = vec![0u8; lists.len()];
        let rows = dense.chunks_exact_mut(mask.key_windows).zip(lists.chunks_exact(mask.key_windows));
        for ((row, list), count) in rows.zip(counts) {
            for key in list.iter().take(count as usize) {
                let key = *key as usize;
                let entry = row.get_mut(key).ok_or_else(|| Error::Compute(format!("a mask lists key window {key}")))?;
                *entry = 1;
            }
        }
        Ok(Tensor::from_vec(dense, (mask.heads, mask.query_windows, mask.key_windows), &Device::Cpu)?)
    }
}
