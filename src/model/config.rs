// SPDX-License-Identifier: MPL-2.0

//! Sizes of the network, read off the checkpoint.

use super::checkpoint::Checkpoint;
use crate::error::Result;

/// Sizes of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Width of a token.
    pub dim: usize,
    /// Attention heads, `dim / 128`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// DiT blocks.
    pub layers: usize,
    /// Width of a prompt token.
    pub text_dim: usize,
    /// Channels of the sinusoidal time embedding.
    pub freq_dim: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Channels after the two convolutions of the LQ projection.
    pub lq_hidden: [usize; 2],
    /// Channels of the four stages of the decoder.
    pub decoder: [usize; 4],
    /// Whether the decoder's output is added to the LQ picture (`"residual": true` in `config.json`).
    pub residual: bool,
}

impl Config {
    /// Reads the sizes off the shapes in `checkpoint`, and `config.json` if there is one.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] names the first tensor that is missing or does not fit the others.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        todo!("{checkpoint:?}")
    }
}
