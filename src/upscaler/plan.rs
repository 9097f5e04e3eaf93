// SPDX-License-Identifier: MPL-2.0

//! What a stream needs, known before its first frame: the stream's own code, run on a backend that only counts.

use std::sync::Arc;

use super::engine::Engine;
use super::{Cancel, Geometry, Options, Size};
use crate::backend::HostTensor;
use crate::backend::plan::PlanBackend;
use crate::error::Result;
use crate::model::checkpoint::Weights;
use crate::model::{Config, Network, Version};
use crate::schedule::Schedule;

/// Memory and work of a stream in f32. Scratch memory inside an operation is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of the weights, shared by all streams of a process.
    pub weight_bytes: u64,
    /// The most bytes of pictures, activations and caches that live at a time.
    pub stream_bytes: u64,
    /// Floating-point operations of a steady window (8 frames).
    pub steady_flops: u64,
}

impl Plan {
    /// Bytes of the weights and of one stream.
    pub fn total_bytes(&self) -> u64 {
        self.weight_bytes + self.stream_bytes
    }
}

/// Weights of every shape asked for.
struct AnyShape;

impl Weights for AnyShape {
    fn get(&self, _: &str, shape: &[usize]) -> Result<HostTensor> {
        Ok(crate::backend::plan::zeros(shape)?)
    }
}

/// A network of the sizes `config` that only counts.
fn counting_network(backend: &PlanBackend, config: &Config) -> Result<Network<PlanBackend>> {
    let prompt = AnyShape.get("", &[1, config.prompt_tokens, config.text_dim])?;
    Network::from_weights(backend, config, Version::default(), [&AnyShape; 3], &prompt)
}

/// Bytes of the weights of a model of the sizes `config`, prepared for use.
///
/// # Errors
/// None that a checked `config` could give.
pub fn weight_bytes(config: &Config) -> Result<u64> {
    let backend = PlanBackend::default();
    let _network = counting_network(&backend, config)?;
    Ok(backend.ledger().weight_bytes())
}

/// Bytes that no stream in f32 does without: the pictures that the first window takes. Cheap arithmetic, for any size.
pub(super) fn least_bytes(geometry: Geometry, options: &Options) -> u64 {
    let Size { width, height } = geometry.model;
    let pictures = Schedule::new(options.startup).frames_needed(0);
    let values = [width as u64, height as u64, 3, size_of::<f32>() as u64];
    values.into_iter().fold(pictures, u64::saturating_mul)
}

/// Windows that fill the cache of keys and values.
pub(super) fn kv_windows(options: &Options) -> u64 {
    options.kv_ratio.clamp(1.0, 1e3) as u64
}

/// Plans a stream of a model of the sizes `config`.
///
/// # Errors
/// [`crate::Error::Settings`] as [`super::Model::stream`].
pub fn plan(config: &Config, geometry: Geometry, options: Options) -> Result<Plan> {
    let backend = Arc::new(PlanBackend::default());
    let ledger = backend.ledger().clone();
    let network = counting_network(&backend, config)?;
    let weight_bytes = ledger.weight_bytes();
    ledger.restart();
    let kv_windows = kv_windows(&options);
    let mut stream = Engine::new(backend.clone(), Arc::new(network), geometry, options, Cancel::default())?;
    let Size { width, height } = geometry.model;
    // The first window, and then until the cache is full.
    for frame in 1..=stream.frames_needed(kv_windows) {
        stream.take(backend.empty_picture(height, width), frame)?;
        stream.decode_all()?;
    }
    let stream_bytes = ledger.peak_bytes();
    ledger.restart();
    let (full, next) = (stream.frames_needed(kv_windows), stream.frames_needed(kv_windows + 1));
    for frame in full + 1..=next {
        stream.take(backend.empty_picture(height, width), frame)?;
        stream.decode_all()?;
    }
    Ok(Plan { weight_bytes, stream_bytes, steady_flops: ledger.flops() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::Checkpoint;
    use crate::upscaler::{SizePolicy, Startup};

    #[test]
    fn the_least_is_less_than_the_plan() {
        let parity = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        let config = Config::from_checkpoint(&Checkpoint::open(&parity).unwrap()).unwrap();
        for startup in [Startup::Reference, Startup::LowLatency] {
            for side in [16, 500] {
                let (input, scaled) = (Size::new(side, 16), Size::new(2 * side, 32));
                let geometry = Geometry::new(input, scaled, SizePolicy::Pad).unwrap();
                let options = Options { startup, ..Options::default() };
                let (least, plan) = (least_bytes(geometry, &options), plan(&config, geometry, options).unwrap());
                assert!(0 < least && least < plan.stream_bytes, "{least}, {plan:?}");
            }
        }
    }
}
