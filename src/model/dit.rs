// SPDX-License-Identifier: MPL-2.0

//! The diffusion transformer: noise and LQ tokens to clean latents, in one step.

use std::collections::VecDeque;

use candle_core::Device;
use rayon::prelude::*;

use super::checkpoint::Weights;
use super::dit_block::{DitBlock, split_modulation};
use super::{Cancel, Config};
use crate::backend::{Backend, DraftMask, Epilogue, Grid, HostTensor, KvGroup, Qkv, Rope};
use crate::error::{Error, Result};

/// The one diffusion step's time.
const TIMESTEP: f64 = 1000.0;
const LATENT_CHANNELS: usize = 16;
/// Blocks that are loaded at a time: enough to keep many cores busy, few enough for what is under way to stay small.
const PARALLEL_BLOCKS: usize = 4;
/// Features of a patch of 2x2 latents.
const PATCH_FEATURES: usize = 4 * LATENT_CHANNELS;

/// What a forward pass needs besides its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DitParams {
    /// Entries that the draft mask keeps per head and query frame pair.
    pub top_k: usize,
    /// Frame pairs above which the cache drops one.
    pub kv_groups: usize,
    /// Side of the local neighbourhood in attention windows.
    pub local_range: usize,
}

impl DitParams {
    /// `topk_ratio` is the budget relative to the square of the number of attention windows of a frame pair.
    ///
    /// # Errors
    /// [`Error::Settings`] if the budget is below one entry, or a parameter makes no sense.
    pub fn new(topk_ratio: f64, kv_ratio: f64, local_range: usize, grid: &Grid) -> Result<Self> {
        let windows = grid.windows();
        let entries = ((windows * windows) as f64 * topk_ratio).floor();
        if !(entries >= 1.0 && entries < u32::MAX.into()) {
            return Err(Error::Settings(format!(
                "an attention budget of {topk_ratio} x {windows}^2 windows keeps nothing; raise sparse-ratio"
            )));
        }
        if !(1.0..=1e6).contains(&kv_ratio) || local_range == 0 {
            return Err(Error::Settings(format!(
                "kv-ratio {kv_ratio} and local-range {local_range}: both must be 1 or more"
            )));
        }
        Ok(Self { top_k: entries as usize - 1, kv_groups: kv_ratio as usize, local_range })
    }

    /// What the draft mask of a window keeps.
    pub fn draft_mask(&self, grid: &Grid) -> DraftMask {
        DraftMask {
            window_rows: grid.window_rows(),
            window_cols: grid.window_cols(),
            local_range: self.local_range,
            top_k: self.top_k,
        }
    }
}

/// Sees what happens inside a forward pass. Every method does nothing unless it is overridden.
pub trait Observer<B: Backend> {
    /// Queries, keys and values of a block after norm and RoPE.
    fn qkv(&mut self, _block: usize, _qkv: &Qkv<B::Tensor>) {}
    /// The draft mask of a block.
    fn mask(&mut self, _block: usize, _mask: &B::Mask) {}
    /// The residual stream after a block.
    fn block(&mut self, _block: usize, _x: &B::Tensor) {}
    /// The head's rows, `[tokens, 64]`.
    fn head(&mut self, _rows: &B::Tensor) {}
}

/// Looks away.
impl<B: Backend> Observer<B> for () {}

/// The KV cache of a stream.
pub struct DitState<B: Backend> {
    /// One per block: frame pairs of keys and values, oldest first.
    pub caches: Vec<VecDeque<KvGroup<B::Tensor>>>,
}

impl<B: Backend> Default for DitState<B> {
    fn default() -> Self {
        Self { caches: Vec::new() }
    }
}

/// The transformer. Prompt and time never change, so all that depends on them alone is computed at load.
pub struct Dit<B: Backend> {
    patch_embedding: B::Linear,
    blocks: Vec<DitBlock<B>>,
    head_scale: B::Vector,
    head_shift: B::Vector,
    head: B::Linear,
    t: HostTensor,
    t_mod: HostTensor,
}

impl<B: Backend> Dit<B> {
    /// Loads the transformer; `prompt` is `(1, tokens, text_dim)`.
    pub fn load(backend: &B, weights: &dyn Weights, prompt: &HostTensor, config: &Config) -> Result<Self> {
        let dim = config.dim;
        let linear = |key: &str, outputs: usize, inputs: usize| {
            let weight = weights.parameter(&format!("{key}.weight"), &[outputs, inputs])?;
            backend.prepare_linear(weight, Some(&weights.get(&format!("{key}.bias"), &[outputs])?), None)
        };
        let (_, tokens, text_dim) = prompt.dims3()?;
        let prompt = backend.rows(&prompt.flatten_all()?.to_vec1::<f32>()?, tokens, text_dim)?;
        let hidden = backend.linear(&prompt, &linear("text_embedding.0", dim, text_dim)?, Epilogue::Gelu)?;
        let context = backend.linear(&hidden, &linear("text_embedding.2", dim, dim)?, Epilogue::None)?;

        // The time is one row, computed on the host, so that modulation is f32 whatever the backend stores.
        let on_host = |x: &HostTensor, key: &str, outputs: usize, inputs: usize| -> Result<HostTensor> {
            let weight = weights.get(&format!("{key}.weight"), &[outputs, inputs])?;
            Ok(x.matmul(&weight.t()?)?.broadcast_add(&weights.get(&format!("{key}.bias"), &[outputs])?)?)
        };
        let sinusoid = HostTensor::from_vec(sinusoid(config.freq_dim), (1, config.freq_dim), &Device::Cpu)?;
        let hidden = on_host(&sinusoid, "time_embedding.0", dim, config.freq_dim)?.silu()?;
        let t = on_host(&hidden, "time_embedding.2", dim, dim)?;
        let t_mod = on_host(&t.silu()?, "time_projection.1", 6 * dim, dim)?.reshape((1, 6, dim))?;

        let block = |i: usize| {
            let prefix = format!("blocks.{i}.");
            DitBlock::load(backend, weights, &prefix, &t_mod, &context, dim, config.ffn)
        };
        let mut blocks = Vec::with_capacity(config.layers);
        for first in (0..config.layers).step_by(PARALLEL_BLOCKS) {
            let some = first..config.layers.min(first + PARALLEL_BLOCKS);
            blocks.extend(some.into_par_iter().map(block).collect::<Result<Vec<_>>>()?);
        }

        // Features of a patch as (row, column, channel), the order of the head's columns.
        let patch = weights.get("patch_embedding.weight", &[dim, LATENT_CHANNELS, 1, 2, 2])?;
        let patch = patch.squeeze(2)?.permute((0, 2, 3, 1))?.reshape((dim, PATCH_FEATURES))?;
        let patch_bias = weights.get("patch_embedding.bias", &[dim])?;
        // The head is modulated by t itself, the same for shift and scale.
        let modulation = weights.get("head.modulation", &[1, 2, dim])?.broadcast_add(&t.unsqueeze(1)?)?;
        let [shift, scale] = split_modulation(&modulation)?;
        Ok(Self {
            patch_embedding: backend.prepare_linear(&patch, Some(&patch_bias), None)?,
            blocks,
            head_scale: backend.vector(&(scale + 1.0)?)?,
            head_shift: backend.vector(&shift)?,
            head: linear("head.head", PATCH_FEATURES, dim)?,
            t,
            t_mod,
        })
    }

    /// Clean latents of one window: `noise` and the result are maps `(H/8, W/8, 16)`, one per latent frame; `lq` holds the
    /// LQ projection's rows of each; `first_latent` is the temporal position of the first.
    #[expect(clippy::too_many_arguments, reason = "a window is just that many things")]
    pub fn forward(
        &self,
        backend: &B,
        state: &mut DitState<B>,
        noise: &[B::Tensor],
        lq: Vec<B::Tensor>,
        grid: Grid,
        first_latent: u64,
        params: &DitParams,
        cancel: &Cancel,
        observer: &mut dyn Observer<B>,
    ) -> Result<Vec<B::Tensor>> {
        state.caches.resize_with(self.blocks.len(), VecDeque::new);
        let rope = backend.rope(Rope::new(first_latent, grid.frames, grid.rows, grid.cols))?;
        let mut x = backend.embed_patches(noise, &self.patch_embedding, &lq, grid)?;
        drop(lq);
        for (i, (block, cache)) in self.blocks.iter().zip(&mut state.caches).enumerate() {
            cancel.check()?;
            x = block.forward(backend, x, cache, grid, &rope, params, i, observer)?;
        }
        cancel.check()?;
        let x = backend.layer_norm(&x, &self.head_scale, &self.head_shift)?;
        let head = backend.linear(&x, &self.head, Epilogue::None)?;
        observer.head(&head);
        backend.denoise(noise, &head, grid)
    }

    /// The time embedding, `(1, dim)`.
    pub fn t(&self) -> &HostTensor {
        &self.t
    }

    /// The time modulation, `(1, 6, dim)`.
    pub fn t_mod(&self) -> &HostTensor {
        &self.t_mod
    }

    /// Keys and values of a block's cross attention, rows `[prompt tokens, dim]`.
    pub fn cross_kv(&self, block: usize) -> Option<(&B::Tensor, &B::Tensor)> {
        self.blocks.get(block).map(DitBlock::cross_kv)
    }
}

/// Cosines, then sines, of `1000 * 10000^(-i / half)`.
fn sinusoid(freq_dim: usize) -> Vec<f32> {
    let half = freq_dim / 2;
    let angle = |i: usize| TIMESTEP * 10_000f64.powf(-(i as f64) / half as f64);
    (0..half).map(|i| angle(i).cos() as f32).chain((0..half).map(|i| angle(i).sin() as f32)).collect()
}
