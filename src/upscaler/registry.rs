// SPDX-License-Identifier: MPL-2.0

//! Things of which a process has one for all its elements: weights, pools of threads, devices.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::error::Result;

/// Things that live as long as somebody uses them.
pub(super) struct Shared<K, T>(Mutex<HashMap<K, Weak<T>>>);

impl<K: Eq + Hash, T> Shared<K, T> {
    pub fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// The living one under `key`, or what `make` gives. Others wait, so that nothing is made twice.
    pub fn get(&self, key: K, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let mut map = self.0.lock();
        if let Some(living) = map.get(&key).and_then(Weak::upgrade) {
            return Ok(living);
        }
        map.retain(|_, weak| weak.strong_count() > 0);
        let made = Arc::new(make()?);
        map.insert(key, Arc::downgrade(&made));
        Ok(made)
    }
}
