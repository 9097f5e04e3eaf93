// SPDX-License-Identifier: MPL-2.0

//! Models on the CPU: elements with the same checkpoint share its weights, elements with the same number of threads their
//! pool.

use std::path::PathBuf;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::engine::Upscaler;
use super::registry::Shared;
use super::{Cancel, Geometry, Model, ModelSpec, Opening, Options, Stream, Version, plan, weight_bytes};
use crate::backend::cpu::CpuBackend;
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;
use crate::model::{Config, Network};

static NETWORKS: Lazy<Shared<(PathBuf, Version), Network<CpuBackend>>> = Lazy::new(Shared::new);
static BACKENDS: Lazy<Shared<usize, CpuBackend>> = Lazy::new(Shared::new);

/// A network on the CPU.
struct CpuModel {
    backend: Arc<CpuBackend>,
    network: Arc<Network<CpuBackend>>,
    reason: String,
}

impl Model for CpuModel {
    fn stream(self: Arc<Self>, geometry: Geometry, options: Options, cancel: Cancel) -> Result<Box<dyn Stream>> {
        let (backend, network) = (self.backend.clone(), self.network.clone());
        check_memory(plan(&network.config, geometry, options.clone())?.stream_bytes)?;
        Ok(Box::new(Upscaler::new(backend, network, geometry, options, cancel)?))
    }

    fn device(&self) -> String {
        name(&self.backend)
    }

    fn precision(&self) -> String {
        "f32".into()
    }

    fn reason(&self) -> String {
        self.reason.clone()
    }
}

/// The device in words.
fn name(backend: &CpuBackend) -> String {
    match backend.threads() {
        1 => "CPU, 1 thread".into(),
        n => format!("CPU, {n} threads"),
    }
}

/// Finds the model of `spec` for the CPU, for this `reason`.
pub(super) fn find(spec: &ModelSpec, reason: String) -> Result<Opening> {
    let backend = BACKENDS.get(spec.threads, &Cancel::default(), || CpuBackend::new(spec.threads))?;
    let checkpoint = Checkpoint::open(&spec.path)?;
    let config = Config::from_checkpoint(&checkpoint)?;
    let (key, version) = ((spec.place(), spec.version), spec.version);
    Ok(Opening::new(name(&backend), "f32".into(), reason.clone(), move |loading| {
        let network = NETWORKS.get(key, loading.cancel(), || {
            check_memory(weight_bytes(&config)?)?;
            Network::load(&*backend, checkpoint, version, loading)
        })?;
        Ok(Arc::new(CpuModel { backend, network, reason }))
    }))
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
