// SPDX-License-Identifier: MPL-2.0

//! One block of the transformer: sparse self attention over the cached past, cross attention to the prompt, feed-forward.

use std::collections::VecDeque;

use candle_core::Tensor;

use super::checkpoint::Weights;
use super::dit::{DitParams, Observer};
use crate::backend::{Backend, Epilogue, Grid, HostTensor, KvGroup, Parameter};
use crate::error::Result;

/// A transformer block. The modulation by time and the prompt's keys and values are constants of it.
pub struct DitBlock<B: Backend> {
    attention_shift: B::Vector,
    attention_scale: B::Vector,
    qkv: B::Linear,
    norm_q: B::Vector,
    norm_k: B::Vector,
    attention_out: B::Linear,
    cross_scale: B::Vector,
    cross_shift: B::Vector,
    cross_q: B::Linear,
    cross_norm_q: B::Vector,
    cross_k: B::Tensor,
    cross_v: B::Tensor,
    cross_out: B::Linear,
    ffn_shift: B::Vector,
    ffn_scale: B::Vector,
    ffn_in: B::Linear,
    ffn_out: B::Linear,
}

/// The parts `(dim)` of a modulation `(1, N, dim)`.
pub(super) fn split_modulation<const N: usize>(modulation: &HostTensor) -> Result<[HostTensor; N]> {
    let parts = modulation.squeeze(0)?.chunk(N, 0)?;
    let parts = parts.iter().map(|p| p.squeeze(0)).collect::<Result<Vec<_>, _>>()?;
    parts.try_into().map_err(|_| crate::Error::Compute(format!("modulation is not of {N} parts")))
}

impl<B: Backend> DitBlock<B> {
    /// Loads the block whose keys start with `prefix`; `t_mod` is `(1, 6, dim)`, `context` the embedded prompt's rows.
    pub fn load(
        backend: &B,
        weights: &dyn Weights,
        prefix: &str,
        t_mod: &HostTensor,
        context: &B::Tensor,
        dim: usize,
        ffn: usize,
    ) -> Result<Self> {
        let get = |key: &str, shape: &[usize]| weights.get(&format!("{prefix}{key}"), shape);
        let vector = |key: &str| backend.vector(&get(key, &[dim])?);
        let layer = |key: &str, outputs: usize, inputs: usize, gate: Option<&HostTensor>| {
            let weight = weights.parameter(&format!("{prefix}{key}.weight"), &[outputs, inputs])?;
            backend.prepare_linear(weight, Some(&get(&format!("{key}.bias"), &[outputs])?), gate)
        };
        let linear = |key: &str, outputs: usize, inputs: usize| layer(key, outputs, inputs, None);
        let modulation = (get("modulation", &[1, 6, dim])? + t_mod)?;
        let [attention_shift, attention_scale, attention_gate, ffn_shift, ffn_scale, ffn_gate] =
            split_modulation(&modulation)?;
        let vector_of = |v: &HostTensor| backend.vector(v);

        let part = |key: &str| weights.parameter(&format!("{prefix}self_attn.{key}.weight"), &[dim, dim]);
        let qkv_weight = Parameter::stack(vec![part("q")?, part("k")?, part("v")?])?;
        let part = |key: &str| get(&format!("self_attn.{key}.bias"), &[dim]);
        let qkv_bias = Tensor::cat(&[part("q")?, part("k")?, part("v")?], 0)?;

        let cross_k = backend.linear(context, &linear("cross_attn.k", dim, dim)?, Epilogue::None)?;
        Ok(Self {
            attention_shift: vector_of(&attention_shift)?,
            attention_scale: vector_of(&(attention_scale + 1.0)?)?,
            qkv: backend.prepare_linear(qkv_weight, Some(&qkv_bias), None)?,
            norm_q: vector("self_attn.norm_q.weight")?,
            norm_k: vector("self_attn.norm_k.weight")?,
            attention_out: layer("self_attn.o", dim, dim, Some(&attention_gate))?,
            cross_scale: vector("norm3.weight")?,
            cross_shift: vector("norm3.bias")?,
            cross_q: linear("cross_attn.q", dim, dim)?,
            cross_norm_q: vector("cross_attn.norm_q.weight")?,
            cross_k: backend.rms_norm(&cross_k, &vector("cross_attn.norm_k.weight")?)?,
            cross_v: backend.linear(context, &linear("cross_attn.v", dim, dim)?, Epilogue::None)?,
            cross_out: linear("cross_attn.o", dim, dim)?,
            ffn_shift: vector_of(&ffn_shift)?,
            ffn_scale: vector_of(&(ffn_scale + 1.0)?)?,
            ffn_in: linear("ffn.0", ffn, dim)?,
            ffn_out: layer("ffn.2", dim, ffn, Some(&ffn_gate))?,
        })
    }

    /// Runs the block on rows in window order. `cache` holds the frame pairs before, oldest first; this window's are added,
    /// and one is dropped if there are then more than `params.kv_groups`. `index` only names the block to `observer`.
    #[expect(clippy::too_many_arguments, reason = "a block sees the whole window")]
    pub fn forward(
        &self,
        backend: &B,
        x: B::Tensor,
        cache: &mut VecDeque<KvGroup<B::Tensor>>,
        grid: Grid,
        rope: &B::Rope,
        params: &DitParams,
        index: usize,
        observer: &mut dyn Observer<B>,
    ) -> Result<B::Tensor> {
        // Each step drops what it has no more use for at once: of a first window, a row of every token is 78 MB at 1408x768.
        let x = {
            let residual = x;
            let rows = backend.layer_norm(&residual, &self.attention_scale, &self.attention_shift)?;
            let rows = consume(rows, |rows| backend.linear(&rows, &self.qkv, Epilogue::None))?;
            let qkv = consume(rows, |rows| backend.qk_norm_rope(&rows, &self.norm_q, &self.norm_k, rope, grid))?;
            observer.qkv(index, &qkv);
            cache.extend(qkv.groups);
            let groups: Vec<_> = cache.iter().collect();
            let k_means: Vec<_> = groups.iter().map(|g| &g.k_mean).collect();
            let mask = backend.draft_mask(&qkv.q_mean, &k_means, &params.draft_mask(&grid))?;
            observer.mask(index, &mask);
            let y = consume(qkv.q, |q| backend.block_sparse_attention(&q, &groups, &mask))?;
            // At most one group goes, whatever came: with a small limit the cache stays one above it.
            if cache.len() > params.kv_groups {
                cache.pop_front();
            }
            backend.linear(&y, &self.attention_out, Epilogue::Add(&residual))?
        };
        let x = self.attend_to_prompt(backend, x)?;
        let x = self.feed_forward(backend, x)?;
        observer.block(index, &x);
        Ok(x)
    }

    fn attend_to_prompt(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let y = backend.layer_norm(&x, &self.cross_scale, &self.cross_shift)?;
        let q = consume(y, |y| backend.linear(&y, &self.cross_q, Epilogue::None))?;
        let q = consume(q, |q| backend.rms_norm(&q, &self.cross_norm_q))?;
        let y = consume(q, |q| backend.cross_attention(&q, &self.cross_k, &self.cross_v))?;
        backend.linear(&y, &self.cross_out, Epilogue::Add(&x))
    }

    fn feed_forward(&self, backend: &B, x: B::Tensor) -> Result<B::Tensor> {
        let y = backend.layer_norm(&x, &self.ffn_scale, &self.ffn_shift)?;
        let y = consume(y, |y| backend.linear(&y, &self.ffn_in, Epilogue::Gelu))?;
        backend.linear(&y, &self.ffn_out, Epilogue::Add(&x))
    }

    /// The prompt's keys (normed) and values.
    pub(super) fn cross_kv(&self) -> (&B::Tensor, &B::Tensor) {
        (&self.cross_k, &self.cross_v)
    }
}

/// What `make` makes of `x`, which is gone then; a variable that another one of the same name hides would live on.
fn consume<X, Y>(x: X, make: impl FnOnce(X) -> Result<Y>) -> Result<Y> {
    make(x)
}
