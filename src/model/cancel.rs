// SPDX-License-Identifier: MPL-2.0

//! Interrupting inference.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// A flag by which another thread interrupts inference.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Interrupts inference at the next operation: it returns [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes the interruption back.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// [`Error::Cancelled`] if interrupted.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Acquire) { Err(Error::Cancelled) } else { Ok(()) }
    }
}
