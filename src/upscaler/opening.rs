// SPDX-License-Identifier: MPL-2.0

//! A model between being found and being loaded.

use std::fmt;
use std::sync::Arc;

use super::{Loading, Model};
use crate::error::Result;

type Load = dyn FnOnce(&Loading) -> Result<Arc<dyn Model>> + Send;

/// A model whose files have been found and looked through, for a device that is there. What takes time, reading the weights, is
/// still to be done.
pub struct Opening {
    device: String,
    precision: String,
    reason: String,
    load: Box<Load>,
}

impl Opening {
    pub(super) fn new(
        device: String,
        precision: String,
        reason: String,
        load: impl FnOnce(&Loading) -> Result<Arc<dyn Model>> + Send + 'static,
    ) -> Self {
        Self { device, precision, reason, load: Box::new(load) }
    }

    /// The device that will run it, in words ("CPU, 8 threads").
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The number format of its activations ("bf16").
    pub fn precision(&self) -> &str {
        &self.precision
    }

    /// Why it will run there ("device=cuda:1", "the first GPU").
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Loads the weights, unless another model of the same path, version, device and precision that is still in use has them.
    /// `loading` follows it and can end it.
    ///
    /// # Errors
    /// [`crate::Error::Read`] if a file cannot be read, [`crate::Error::NoSpace`] if the weights do not fit into the device's
    /// memory, [`crate::Error::Device`], [`crate::Error::Cancelled`].
    pub fn load(self, loading: &Loading) -> Result<Arc<dyn Model>> {
        (self.load)(loading)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a model for {} in {} ({})", self.device, self.precision, self.reason)
    }
}
