// SPDX-License-Identifier: MPL-2.0

//! Weights and pictures for benchmarks.

use candle_core::{Device, Tensor};
use gstflashvsr::Error;
use gstflashvsr::backend::HostTensor;
use gstflashvsr::model::checkpoint::Weights;

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

/// Values in `offset - scale / 2 .. offset + scale / 2`.
pub fn uniform(shape: &[usize], scale: f32, offset: f32) -> gstflashvsr::Result<HostTensor> {
    let value = |i: u64| {
        // The finaliser of SplitMix64.
        let mut z = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale + offset
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(value).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(Error::from)
}
