// SPDX-License-Identifier: MPL-2.0

//! Weights and pictures for benchmarks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use candle_core::{Device, Tensor};
use gstflashvsr::Error;
use gstflashvsr::backend::HostTensor;
use gstflashvsr::model::checkpoint::Weights;
use parking_lot::Mutex;
use rayon::prelude::*;

/// Weights of any shape that keep the variance; their values do not matter for the speed as long as they stay finite.
pub struct RandomWeights;

impl Weights for RandomWeights {
    fn get(&self, key: &str, shape: &[usize]) -> gstflashvsr::Result<HostTensor> {
        let inputs: usize = shape[1..].iter().product();
        let scale = if shape.len() > 1 { 2.0 / (inputs.max(1) as f32).sqrt() } else { 0.2 };
        let offset = if key.contains("norm") && !key.ends_with("bias") { 1.0 } else { 0.0 };
        uniform(shape, scale, offset)
    }
}

/// Values in `offset - scale / 2 .. offset + scale / 2`, the same for each shape at each call: they are drawn once.
pub fn uniform(shape: &[usize], scale: f32, offset: f32) -> gstflashvsr::Result<HostTensor> {
    /// Tensors by their length, and the bits of their scale and offset.
    type Drawn = BTreeMap<(usize, u32, u32), HostTensor>;
    static DRAWN: Mutex<Drawn> = Mutex::new(Drawn::new());

    let value = |i: usize| {
        // The finaliser of SplitMix64.
        let mut z = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale + offset
    };
    let len = shape.iter().product();
    let mut drawn = DRAWN.lock();
    let values = match drawn.entry((len, scale.to_bits(), offset.to_bits())) {
        Entry::Occupied(values) => values.into_mut(),
        Entry::Vacant(place) => {
            let values: Vec<f32> = (0..len).into_par_iter().map(value).collect();
            place.insert(Tensor::from_vec(values, len, &Device::Cpu)?)
        }
    };
    values.reshape(shape).map_err(Error::from)
}
