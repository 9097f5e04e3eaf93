// SPDX-License-Identifier: MPL-2.0

//! Models that are loaded in this process: elements with the same checkpoint share its weights, elements with the same
//! number of threads their pool.

use std::collections::HashMap;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use once_cell::sync::Lazy;
use parking_lot::Mutex;

use super::engine::Upscaler;
use super::{Cancel, Geometry, Model, ModelSpec, Options, Stream, Version};
use crate::backend::cpu::CpuBackend;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::{Config, Network};

/// Things that live as long as somebody uses them.
struct Shared<K, T>(Mutex<HashMap<K, Weak<T>>>);

impl<K: Eq + Hash, T> Shared<K, T> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// The living one under `key`, or what `make` gives. Others wait, so that nothing is made twice.
    fn get(&self, key: K, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
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

static NETWORKS: Lazy<Shared<(PathBuf, Version), Network<CpuBackend>>> = Lazy::new(Shared::new);
static BACKENDS: Lazy<Shared<usize, CpuBackend>> = Lazy::new(Shared::new);

/// A network on the CPU.
struct CpuModel {
    backend: Arc<CpuBackend>,
    network: Arc<Network<CpuBackend>>,
}

impl Model for CpuModel {
    fn stream(self: Arc<Self>, geometry: Geometry, options: Options, cancel: Cancel) -> Result<Box<dyn Stream>> {
        let (backend, network) = (self.backend.clone(), self.network.clone());
        check_memory(super::plan(&network.config, geometry, options.clone())?.stream_bytes)?;
        Ok(Box::new(Upscaler::new(backend, network, geometry, options, cancel)?))
    }

    fn device(&self) -> String {
        match self.backend.threads() {
            1 => "CPU, 1 thread".into(),
            n => format!("CPU, {n} threads"),
        }
    }
}

/// Loads a model. Its weights are those of any other model of the same path and version that is still in use.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Read`] or [`Error::Tensor`] for the checkpoint, [`Error::Settings`] for the device,
/// [`Error::NoSpace`] if the weights do not fit into memory.
pub fn open(spec: &ModelSpec) -> Result<Arc<dyn Model>> {
    if !matches!(spec.device.as_str(), "auto" | "cpu") {
        return Err(Error::Settings(format!(
            "device \"{}\" is not available: this build has the CPU backend only; set device=cpu or device=auto",
            spec.device
        )));
    }
    let backend = BACKENDS.get(spec.threads, || CpuBackend::new(spec.threads))?;
    // One file under two names is one checkpoint; a path that leads nowhere is reported by the checkpoint's reader.
    let path = spec.path.canonicalize().unwrap_or_else(|_| spec.path.clone());
    let network = NETWORKS.get((path, spec.version), || {
        let checkpoint = Checkpoint::open(&spec.path)?;
        check_memory(super::weight_bytes(&Config::from_checkpoint(&checkpoint)?)?)?;
        Network::load(&*backend, &checkpoint, spec.version)
    })?;
    Ok(Arc::new(CpuModel { backend, network }))
}

/// Refuses what the system has no memory for, before it is asked for.
fn check_memory(needed: u64) -> Result<()> {
    match available_memory() {
        Some(available) if needed > available => Err(Error::NoSpace { needed, available }),
        _ => Ok(()),
    }
}

/// Memory that the system could give, where it tells (Linux's `MemAvailable`).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
