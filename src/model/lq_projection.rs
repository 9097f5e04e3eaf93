// SPDX-License-Identifier: MPL-2.0

//! The LQ projection: low-quality frames to tokens, four frames to one latent frame.

use super::checkpoint::Weights;
use super::{Config, Version};
use crate::backend::{Backend, Epilogue};
use crate::error::{Error, Result};

/// Maps that each convolution remembers from call to call.
const CACHE: usize = 2;

/// Two causal convolutions over space-to-depth frames, each with norm and SiLU, and one linear layer.
pub struct LqProjection<B: Backend> {
    version: Version,
    conv1: B::Conv3d,
    norm1: B::Vector,
    conv2: B::Conv3d,
    norm2: B::Vector,
    linear: B::Linear,
}

/// What the projection remembers of the calls before: the last two input maps of each convolution.
pub struct LqState<B: Backend> {
    /// Space-to-depth frames, `(H/16, W/16, 768)`.
    pub conv1: Vec<B::Tensor>,
    /// Maps after the first norm and SiLU.
    pub conv2: Vec<B::Tensor>,
}

impl<B: Backend> Default for LqState<B> {
    fn default() -> Self {
        Self { conv1: Vec::new(), conv2: Vec::new() }
    }
}

impl<B: Backend> LqProjection<B> {
    /// Loads `conv1`, `norm1`, `conv2`, `norm2` and `linear_layers.0`.
    pub fn load(backend: &B, weights: &dyn Weights, config: &Config, version: Version) -> Result<Self> {
        let [h1, h2] = config.lq_hidden;
        let conv = |key: &str, inputs: usize, outputs: usize| {
            let weight = weights.parameter(&format!("{key}.weight"), &[outputs, inputs, 4, 3, 3])?;
            backend.prepare_conv3d(weight, &weights.get(&format!("{key}.bias"), &[outputs])?)
        };
        let gamma = |key: &str, channels: usize| backend.vector(&weights.get(key, &[channels, 1, 1, 1])?);
        let (conv1, conv2) = rayon::join(|| conv("conv1", 768, h1), || conv("conv2", h1, h2));
        Ok(Self {
            version,
            conv1: conv1?,
            norm1: gamma("norm1.gamma", h1)?,
            conv2: conv2?,
            norm2: gamma("norm2.gamma", h2)?,
            linear: backend.prepare_linear(
                weights.parameter("linear_layers.0.weight", &[config.dim, h2])?,
                Some(&weights.get("linear_layers.0.bias", &[config.dim])?),
                None,
            )?,
        })
    }

    /// Projects the next frames: one picture in the first call of a stream, which yields nothing, then four at a time, which
    /// yield the rows `[H/16 * W/16, dim]` of one latent frame, in row-major order.
    pub fn project(&self, backend: &B, state: &mut LqState<B>, pictures: &[B::Tensor]) -> Result<Option<B::Tensor>> {
        let first = state.conv1.is_empty();
        let expected = if first { 1 } else { 4 };
        if pictures.len() != expected {
            return Err(Error::Compute(format!("LQ projection given {} frames, expected {expected}", pictures.len())));
        }
        let mut maps = pictures.iter().map(|p| backend.pixel_unshuffle(p)).collect::<Result<Vec<_>>>()?;
        if first && let Some(frame) = maps.first().cloned() {
            // The first frame stands for the four of a latent frame that never comes out.
            maps.splice(0..0, std::iter::repeat_n(frame, 3));
        }
        let hidden = self.convolve(backend, &mut state.conv1, maps, &self.conv1, &self.norm1)?;
        if first {
            state.conv2 = hidden;
            return Ok(None);
        }
        let hidden = self.convolve(backend, &mut state.conv2, hidden, &self.conv2, &self.norm2)?;
        hidden.first().map(|map| backend.linear(map, &self.linear, Epilogue::None)).transpose()
    }

    /// One convolution with its past, norm and SiLU; `cache` becomes the end of `maps`.
    fn convolve(
        &self,
        backend: &B,
        cache: &mut Vec<B::Tensor>,
        maps: Vec<B::Tensor>,
        conv: &B::Conv3d,
        gamma: &B::Vector,
    ) -> Result<Vec<B::Tensor>> {
        let end = maps[maps.len().saturating_sub(CACHE)..].to_vec();
        let past = match self.version {
            Version::V1_1 if cache.is_empty() => vec![maps[0].clone(); CACHE],
            Version::V1_1 => std::mem::take(cache),
            Version::V1 => end.clone(),
        };
        *cache = end;
        let sequence: Vec<_> = past.into_iter().chain(maps).collect();
        backend.causal_conv3d(&sequence, conv)?.iter().map(|map| backend.rms_norm_silu(map, gamma)).collect()
    }
}
