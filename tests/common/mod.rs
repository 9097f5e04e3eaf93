// SPDX-License-Identifier: MPL-2.0

//! What the tests of the arithmetic share: deterministic numbers, and tensors of them.

use candle_core::{Device, Tensor};

/// FNV-1a, 64 bits.
pub fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// `count` uniform values of the generator `G(name, .., scale, offset, seed)` of the parity data: `u * scale + offset`
/// with u in [-0.5, 0.5), rounded to f32 after the multiplication and after the addition.
pub fn uniform(name: &str, count: usize, scale: f64, offset: f32, seed: u64) -> Vec<f32> {
    let (start, scale) = (seed ^ fnv1a(name), scale as f32);
    (1..=count as u64)
        .map(|i| {
            let z = start.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let z = z ^ (z >> 31);
            let u = (z >> 40) as f32 * 2f32.powi(-24) - 0.5;
            u * scale + offset
        })
        .collect()
}

/// The scale that gives [`uniform`] values unit variance, `sqrt(12)`.
pub fn unit_variance() -> f64 {
    12f64.sqrt()
}

/// A tensor on the host; panics if `values` do not fill `shape`.
pub fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a shape that fits the values")
}

#[test]
fn generator_gives_its_published_values() {
    assert_eq!(fnv1a("abc"), 0xe71f_a219_0541_574b);
    let known = [-0.386_706_23, -0.090_937_436, -0.240_859_8, 0.306_015_67, -0.375_410_5];
    assert_eq!(uniform("abc", 5, 1.0, 0.0, 42), known);
    let known = [1.418_209_8, -0.358_996_63, 0.273_254_78];
    assert_eq!(uniform("s128x256.noise0", 3, unit_variance(), 0.0, 7), known);
}
