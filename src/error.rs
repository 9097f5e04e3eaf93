// SPDX-License-Identifier: MPL-2.0

//! The one error type of everything below the element. Every variant names the thing and, where there is one,
//! the cure, so that the element can post its text unchanged.

use std::path::PathBuf;

/// Result of everything below the element.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a checkpoint and an output frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a directory is not there.
    #[error("{path}: {what} not found; {cure}")]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
        /// What was expected at it, as a noun ("DiT weights").
        what: &'static str,
        /// What the user can do about it.
        cure: String,
    },
    /// A file is there and cannot be read, or is not what its name says.
    #[error("{path}: {reason}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it is refused.
        reason: String,
    },
    /// A tensor is missing from a checkpoint or has the wrong shape.
    #[error("{file}: tensor \"{key}\": expected {expected}, found {found}")]
    Tensor {
        /// The file.
        file: PathBuf,
        /// The tensor's key.
        key: String,
        /// What the model needs.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A parameter or a picture size is refused.
    #[error("{0}")]
    Settings(String),
    /// The device or the host has too little memory.
    #[error(
        "not enough memory: needs at least {needed} bytes, {available} available; lower the output size or take a smaller model"
    )]
    NoSpace {
        /// Bytes that the run needs.
        needed: u64,
        /// Bytes that there are.
        available: u64,
    },
    /// A device cannot be used, or has failed.
    #[error("{device}: {reason}")]
    Device {
        /// The device's name and number ("NVIDIA H200 (cuda:0)").
        device: String,
        /// What happened, what the driver says, and the cure.
        reason: String,
    },
    /// Inference was interrupted by a flush or a state change; nothing is wrong.
    #[error("interrupted")]
    Cancelled,
    /// A computation failed.
    #[error("computation failed: {0}")]
    Compute(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Error::Compute(error.to_string())
    }
}
