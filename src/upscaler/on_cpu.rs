// SPDX-License-Identifier: MPL-2.0

//! Models on the CPU: elements with the same checkpoint share its weights, elements with the same number of threads their
//! pool.

use std::path::PathBuf;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::engine::Engine;
use super::memory::check_memory;
use super::plan::least_bytes;
use super::registry::Shared;
use super::{Cancel, Geometry, Model, ModelSpec, Opening, Options, Stream, Version, plan, weight_bytes};
use crate::backend::cpu::CpuBackend;
use crate::error::Result;
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
        // Cheap arithmetic comes first: the numbers of a plan overflow for sizes that no memory holds.
        check_memory(least_bytes(geometry, &options))?;
        check_memory(plan(&network.config, geometry, options.clone())?.stream_bytes)?;
        Ok(Box::new(Engine::new(backend, network, geometry, options, cancel)?))
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
    let threads = threads(spec.threads);
    let backend = BACKENDS.get(threads, &Cancel::default(), || CpuBackend::new(threads))?;
    let checkpoint = Checkpoint::open(&spec.path)?;
    let config = Config::from_checkpoint(&checkpoint)?;
    let (key, version) = ((spec.canonical_path(), spec.version), spec.version);
    Ok(Opening::new(name(&backend), "f32".into(), reason.clone(), move |loading| {
        let network = NETWORKS.get(key, loading.cancel(), || {
            check_memory(weight_bytes(&config)?)?;
            Network::load(&*backend, checkpoint, version, loading)
        })?;
        Ok(Arc::new(CpuModel { backend, network, reason }))
    }))
}

/// Threads for a wish of `wanted`, 0 for no wish: no more than may run at a time. More would wait for each other, and take a
/// hundred times as long.
fn threads(wanted: usize) -> usize {
    let most = std::thread::available_parallelism().map_or(1, Into::into);
    if wanted == 0 { most } else { wanted.min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_at_least_one_and_at_most_what_runs_at_a_time() {
        let most = threads(0);
        assert!(most >= 1);
        assert_eq!([1, most, most + 1, usize::MAX].map(threads), [1, most, most, most]);
    }
}
