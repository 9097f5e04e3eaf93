// SPDX-License-Identifier: MPL-2.0

//! Windows of the DiT, the KV cache carried on.

use std::collections::VecDeque;

use anyhow::{Context, Result};
use candle_core::{D, Tensor};
use gstflashvsr::backend::{Backend, Grid, KvGroup, Qkv, Size, WINDOW_TOKENS};
use gstflashvsr::model::{Dit, DitParams, DitState, Observer};
use gstflashvsr::upscaler::Cancel;

use crate::clip;
use crate::data::{Data, every, model, sampled_like};
use crate::report::Report;

const MAX_ABS: f64 = 1e-4;

/// Keeps what the DiT lets an observer see of one window.
pub struct Recorder<'a, B: Backend> {
    backend: &'a B,
    grid: Grid,
    /// The mask of each block, `[heads, query windows, key windows]`.
    pub masks: Vec<Tensor>,
    /// The residual stream after each block, `[tokens, dim]` in (frame, row, column) order.
    pub blocks: Vec<Tensor>,
    /// Queries, keys and values of each block, in the same order.
    pub qkv: Vec<[Tensor; 3]>,
    /// The head's rows, in the same order.
    pub heads: Vec<Tensor>,
}

impl<'a, B: Backend> Recorder<'a, B> {
    pub fn new(backend: &'a B, grid: Grid) -> Self {
        Self { backend, grid, masks: vec![], blocks: vec![], qkv: vec![], heads: vec![] }
    }

    fn in_sequence(&self, rows: &B::Tensor) -> Tensor {
        let rows = self.backend.to_host(rows).expect("rows on the host");
        in_sequence(&rows, self.grid).expect("rows of every token")
    }
}

impl<B: Backend> Observer<B> for Recorder<'_, B> {
    fn qkv(&mut self, _: usize, qkv: &Qkv<B::Tensor>) {
        let gather = |part: fn(&KvGroup<B::Tensor>) -> &B::Tensor| {
            let groups: Vec<_> =
                qkv.groups.iter().map(|group| self.backend.to_host(part(group)).expect("rows on the host")).collect();
            let all = Tensor::cat(&groups, 0).expect("groups of equal width");
            in_sequence(&all, self.grid).expect("rows of every token")
        };
        let (k, v) = (gather(|group| &group.k), gather(|group| &group.v));
        self.qkv.push([self.in_sequence(&qkv.q), k, v]);
    }

    fn mask(&mut self, _: usize, mask: &B::Mask) {
        self.masks.push(self.backend.mask_to_host(mask).expect("a mask on the host"));
    }

    fn block(&mut self, _: usize, x: &B::Tensor) {
        self.blocks.push(self.in_sequence(x));
    }

    fn head(&mut self, rows: &B::Tensor) {
        self.heads.push(self.in_sequence(rows));
    }
}

/// For each token in window order its index in (frame, row, column) order.
fn sequence_indices(grid: Grid) -> Vec<u32> {
    let index = |(frame, row, col): (usize, usize, usize)| ((frame * grid.rows + row) * grid.cols + col) as u32;
    (0..grid.tokens()).map(|token| index(grid.position(token))).collect()
}

/// Rows in (frame, row, column) order put into window order.
pub fn in_windows(rows: &Tensor, grid: Grid) -> Result<Tensor> {
    Ok(rows.index_select(&Tensor::new(sequence_indices(grid), rows.device())?, 0)?)
}

/// Rows in window order put into (frame, row, column) order.
pub fn in_sequence(rows: &Tensor, grid: Grid) -> Result<Tensor> {
    let mut inverse = vec![0u32; grid.tokens()];
    for (token, index) in sequence_indices(grid).into_iter().enumerate() {
        inverse[index as usize] = token as u32;
    }
    Ok(rows.index_select(&Tensor::new(inverse, rows.device())?, 0)?)
}

/// Means over the 128 tokens of each window of cached rows, `[windows, dim]`.
fn window_means<B: Backend>(
    b: &B,
    cache: &VecDeque<KvGroup<B::Tensor>>,
    part: fn(&KvGroup<B::Tensor>) -> &B::Tensor,
) -> Result<Tensor> {
    let groups = cache.iter().map(|group| Ok(b.to_host(part(group))?)).collect::<Result<Vec<_>>>()?;
    let rows = Tensor::cat(&groups, 0)?;
    Ok(rows.reshape((rows.dim(0)? / WINDOW_TOKENS, WINDOW_TOKENS, rows.dim(1)?))?.mean(1)?)
}

/// `noise - clean` as `(1, 16, f, h, w)`: what the network predicted.
pub fn prediction<B: Backend>(b: &B, noise: &Tensor, clean: &[B::Tensor]) -> Result<Tensor> {
    Ok((noise - clip::download_maps(b, clean)?)?)
}

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let (checkpoint, config) = model()?;
    let prompt = checkpoint.prompt.get("", &[1, config.prompt_tokens, config.text_dim])?;
    let dit = Dit::load(b, &checkpoint.dit, &prompt, &config)?;

    let (tag, seed) = (data.text("tag")?, data.number("gen_seed")?);
    let size = Size::new(data.number("W")?, data.number("H")?);
    let stride = data.number("token_stride")?;
    let mut state = DitState::default();
    let mut first_latent = 0;
    for window in 0..data.number("windows")? {
        let key = |name: &str| format!("w{window}.{name}");
        let want = data.get(&key("noise_pred"))?;
        let grid = Grid::new(want.dim(2)?, size);
        let noise = clip::latent(&format!("{tag}.noise{window}"), grid.frames, 2 * grid.rows, 2 * grid.cols, seed);
        let lq = clip::tokens(&format!("{tag}.lq{window}"), grid, config.dim, seed);
        if let Some(corner) = data.find(&key("noise_check")) {
            let (rows, cols) = corner.dims2()?;
            let plane = noise.squeeze(0)?.get(0)?.get(0)?;
            report.equal(&key("noise_check"), &plane.narrow(0, 0, rows)?.narrow(1, 0, cols)?, corner)?;
        }
        if let Some(corner) = data.find(&key("lq_check")) {
            let (rows, cols) = corner.dims2()?;
            report.equal(&key("lq_check"), &lq.narrow(0, 0, rows)?.narrow(1, 0, cols)?, corner)?;
        }

        let noise_maps = clip::upload_latent(b, &noise)?;
        let area = grid.rows * grid.cols;
        let lq_rows = (0..grid.frames)
            .map(|t| {
                let values: Vec<f32> = lq.narrow(0, t * area, area)?.flatten_all()?.to_vec1()?;
                Ok(b.rows(&values, area, config.dim)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let params =
            DitParams::new(data.number("topk_ratio")?, data.number("kv_ratio")?, data.number("local_range")?, &grid)?;
        let mut seen = Recorder::new(b, grid);
        let cancel = Cancel::default();
        let clean =
            dit.forward(b, &mut state, &noise_maps, lq_rows, grid, first_latent, &params, &cancel, &mut seen)?;
        first_latent += grid.frames as u64;

        let predicted = prediction(b, &noise, &clean)?;
        report.close(&key("noise_pred"), &sampled_like(&predicted, want)?, want, MAX_ABS)?;
        for block in 0..config.layers {
            let key = |name: &str| format!("w{window}.block{block}.{name}");
            if let Some(want) = data.find(&key("mask")) {
                report.equal(&key("mask"), &seen.masks[block], want)?;
            }
            let [q, k, v] = &seen.qkv[block];
            let rows = [("out", &seen.blocks[block]), ("q_rope", q), ("k_rope", k), ("v", v)];
            for (name, rows) in rows {
                if let Some(want) = data.find(&key(name)) {
                    report.close(&key(name), &every(rows, 0, stride)?.unsqueeze(0)?, want, MAX_ABS)?;
                }
            }
            let cache = state.caches.get(block).context("a cache for every block")?;
            let kv = [
                ("k", window_means(b, cache, |group| &group.k)?),
                ("v", window_means(b, cache, |group| &group.v)?),
                ("k", window_means_kept(b, cache)?),
            ];
            for (name, means) in &kv {
                let key = format!("w{window}.cache_{name}.block{block}.mean_tokens");
                if let Some(want) = data.find(&key) {
                    report.close(&key, means, want, MAX_ABS)?;
                }
            }
            if let Some(want) = data.find(&format!("w{window}.cache_shape")) {
                let shape = [kv[0].1.dim(0)?, WINDOW_TOKENS, kv[0].1.dim(D::Minus1)?].map(|n| n as i64);
                let shape = Tensor::new(&shape, want.device())?;
                report.equal(&format!("w{window}.cache_shape, block {block}"), &shape, want)?;
            }
        }
        if let Some(want) = data.find(&key("head_out")) {
            let rows = seen.heads.first().context("the head's rows")?;
            report.close(&key("head_out"), &every(rows, 0, stride)?.unsqueeze(0)?, want, MAX_ABS)?;
        }
    }
    Ok(())
}

/// The means that were kept beside the cached keys.
fn window_means_kept<B: Backend>(b: &B, cache: &VecDeque<KvGroup<B::Tensor>>) -> Result<Tensor> {
    let groups = cache.iter().map(|group| Ok(b.to_host(&group.k_mean)?)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::cat(&groups, 0)?)
}
