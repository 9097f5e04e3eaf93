// SPDX-License-Identifier: MPL-2.0

//! The network of FlashVSR v1.1 Tiny-Long, written once against [`crate::backend::Backend`].

mod cancel;
pub mod checkpoint;
mod config;
mod decoder;
mod dit;
mod dit_block;
mod layout;
mod lq_projection;

pub use cancel::Cancel;
pub use config::Config;
pub use decoder::{DecoderState, TcDecoder};
pub use dit::{Dit, DitParams, DitState, Observer};
pub use dit_block::DitBlock;
pub use layout::{Layout, Spec};
pub use lq_projection::{LqProjection, LqState};

use crate::backend::{Backend, HostTensor};
use crate::error::Result;
use checkpoint::{Checkpoint, Weights};

/// Generation of the LQ projection. The files of both look alike, so it has to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Version {
    /// Causal: each call sees the end of the call before.
    #[default]
    V1_1,
    /// Buffered: each call sees its own end in place of the past.
    V1,
}

/// The whole network with its weights on one device.
pub struct Network<B: Backend> {
    /// Sizes.
    pub config: Config,
    /// Frames to tokens.
    pub lq: LqProjection<B>,
    /// Noise and tokens to latents.
    pub dit: Dit<B>,
    /// Latents and frames to pictures.
    pub decoder: TcDecoder<B>,
}

impl<B: Backend> Network<B> {
    /// Loads every part of a checkpoint.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] or [`crate::Error::Read`] names the first tensor that is missing, misshapen or unreadable.
    pub fn load(backend: &B, checkpoint: &Checkpoint, version: Version) -> Result<Self> {
        let config = Config::from_checkpoint(checkpoint)?;
        let prompt = checkpoint.prompt.get("", &[1, config.prompt_tokens, config.text_dim])?;
        let Checkpoint { dit, lq, decoder, .. } = checkpoint;
        Self::from_weights(backend, &config, version, [dit, lq, decoder], &prompt)
    }

    /// The network of sizes `config` from the weights of DiT, LQ projection and decoder, and a prompt `(1, tokens, text_dim)`.
    ///
    /// # Errors
    /// Those of the weights.
    pub fn from_weights(
        backend: &B,
        config: &Config,
        version: Version,
        [dit, lq, decoder]: [&dyn Weights; 3],
        prompt: &HostTensor,
    ) -> Result<Self> {
        Ok(Self {
            config: config.clone(),
            lq: LqProjection::load(backend, lq, config, version)?,
            dit: Dit::load(backend, dit, prompt, config)?,
            decoder: TcDecoder::load(backend, decoder, config)?,
        })
    }
}
