// SPDX-License-Identifier: MPL-2.0

//! Weights and pictures for benchmarks: random numbers, of which a block is drawn once and repeated.

use std::sync::LazyLock;

use candle_core::{Device, Tensor};
use gstflashvsr::Error;
use gstflashvsr::backend::{HostTensor, Parameter, Precision, Values, encode};
use gstflashvsr::model::checkpoint::Weights;
use rayon::prelude::*;

/// Numbers in a block: a prime, so that no two rows or columns of anything are the same.
const BLOCK: usize = 1_048_583;

/// Numbers in `-0.5..0.5`.
static DRAWN: LazyLock<Vec<f32>> = LazyLock::new(|| {
    let number = |i: usize| {
        // The finaliser of SplitMix64.
        let mut z = (i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..BLOCK).map(number).collect()
});

/// Weights of any shape that keep the variance; their values do not matter for the speed as long as they stay finite.
pub struct RandomWeights;

/// Scale and offset of the weight `key`.
fn range(key: &str, shape: &[usize]) -> (f32, f32) {
    let inputs: usize = shape[1..].iter().product();
    let scale = if shape.len() > 1 { 2.0 / (inputs.max(1) as f32).sqrt() } else { 0.2 };
    (scale, if key.contains("norm") && !key.ends_with("bias") { 1.0 } else { 0.0 })
}

impl Weights for RandomWeights {
    fn get(&self, key: &str, shape: &[usize]) -> gstflashvsr::Result<HostTensor> {
        let (scale, offset) = range(key, shape);
        uniform(shape, scale, offset)
    }

    fn parameter(&self, key: &str, shape: &[usize]) -> gstflashvsr::Result<Parameter<'_>> {
        let (scale, offset) = range(key, shape);
        let numbers = BLOCK.min(shape.iter().product());
        let values: Vec<f32> = DRAWN[..numbers].iter().map(|number| number * scale + offset).collect();
        Ok(Parameter::new(shape, Repeated(encode(&values, Precision::Bf16))))
    }
}

/// Values in bf16, as in FlashVSR's own files, that begin anew where they end.
struct Repeated(Vec<u8>);

impl Values for Repeated {
    fn precision(&self) -> Precision {
        Precision::Bf16
    }

    fn read(&self, first: usize, mut to: &mut [u8]) -> gstflashvsr::Result<()> {
        let Self(block) = self;
        let mut from = first * self.precision().bytes() % block.len();
        while !to.is_empty() {
            let count = to.len().min(block.len() - from);
            to[..count].copy_from_slice(&block[from..from + count]);
            (to, from) = (&mut to[count..], 0);
        }
        Ok(())
    }
}

/// Values in `offset - scale / 2 .. offset + scale / 2`.
pub fn uniform(shape: &[usize], scale: f32, offset: f32) -> gstflashvsr::Result<HostTensor> {
    let mut values = vec![0.0; shape.iter().product()];
    let numbers = &*DRAWN;
    values.par_chunks_mut(BLOCK).for_each(|values| {
        for (value, number) in values.iter_mut().zip(numbers) {
            *value = number * scale + offset;
        }
    });
    Tensor::from_vec(values, shape, &Device::Cpu).map_err(Error::from)
}
