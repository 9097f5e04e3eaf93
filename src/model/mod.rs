// SPDX-License-Identifier: MPL-2.0

//! The network of FlashVSR v1.1 Tiny-Long, written once against [`crate::backend::Backend`].

pub mod checkpoint;
mod config;
mod layout;

pub use config::Config;
pub use layout::{Layout, Spec};

/// Generation of the LQ projection. The files of both look alike, so it has to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Version {
    /// Causal: each call sees the end of the call before.
    #[default]
    V1_1,
    /// Buffered: each call sees its own end in place of the past.
    V1,
}
