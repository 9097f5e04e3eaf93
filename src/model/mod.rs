// SPDX-License-Identifier: MPL-2.0

//! The network of FlashVSR v1.1 Tiny-Long, written once against [`crate::backend::Backend`].

mod cancel;
pub mod checkpoint;
mod config;
mod decoder;
mod dit;
mod dit_block;
mod layout;
mod loading;
mod lq_projection;

pub use cancel::Cancel;
pub use config::Config;
pub use decoder::{DecoderState, TcDecoder};
pub use dit::{Dit, DitParams, DitState, Observer};
pub use dit_block::DitBlock;
pub use layout::{Layout, Spec};
pub use loading::{Loading, Progress};
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
    /// Loads every part of a checkpoint. `loading` follows it and can end it.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] or [`crate::Error::Read`] names a tensor or a file that cannot be read;
    /// [`crate::Error::Cancelled`].
    pub fn load(backend: &B, mut checkpoint: Checkpoint, version: Version, loading: &Loading) -> Result<Self> {
        let config = Config::from_checkpoint(&checkpoint)?;
        checkpoint.follow(loading);
        let prompt = checkpoint.prompt.get("", &[1, config.prompt_tokens, config.text_dim])?;
        let Checkpoint { dit, lq, decoder, .. } = &checkpoint;
        let network = Self::from_weights(backend, &config, version, [dit, lq, decoder], &prompt)?;
        loading.finish();
        Ok(network)
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
        // In parallel: of some parts the host has much to compute, of others nearly nothing but to read.
        let (dit, (lq, decoder)) = rayon::join(
            || Dit::load(backend, dit, prompt, config),
            || {
                rayon::join(
                    || LqProjection::load(backend, lq, config, version),
                    || TcDecoder::load(backend, decoder, config),
                )
            },
        );
        Ok(Self { config: config.clone(), lq: lq?, dit: dit?, decoder: decoder? })
    }
}
