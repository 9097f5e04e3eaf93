// SPDX-License-Identifier: MPL-2.0

//! The noise that the network starts from: a function of (seed, window, element index) alone, the same on every backend.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011) with the seed as key
//! and (index / 4, window) as counter; its four words give four normal values by Box and Muller's method.

const ROUNDS: usize = 10;
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Philox4x32-10.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (mut c, mut k) = (counter, key);
    for _ in 0..ROUNDS {
        let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0]);
        let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2]);
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// Elements `4 * quad .. 4 * quad + 4` of the noise of a window. Elements are numbered in (frame, row, column, channel) order.
pub fn normals(seed: u64, window: u64, quad: u64) -> [f32; 4] {
    let split = |x: u64| [x as u32, (x >> 32) as u32];
    let ([q0, q1], [w0, w1]) = (split(quad), split(window));
    let words = philox([q0, q1, w0, w1], split(seed));
    let pair = |a: u32, b: u32| {
        // (0, 1] and [0, 1): the logarithm stays finite.
        let radius = (-2.0 * ((f64::from(a) + 1.0) * 2f64.powi(-32)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * f64::from(b) * 2f64.powi(-32)).sin_cos();
        ((radius * cos) as f32, (radius * sin) as f32)
    };
    let (a, b) = pair(words[0], words[1]);
    let (c, d) = pair(words[2], words[3]);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with Random123 (file kat_vectors).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_are_those_of_a_normal() {
        let n = 100_000;
        let values: Vec<f64> = (0..n / 4).flat_map(|q| normals(7, 3, q)).map(f64::from).collect();
        let mean = values.iter().sum::<f64>() / n as f64;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02 && (var - 1.0).abs() < 0.02, "mean {mean}, variance {var}");
    }
}
