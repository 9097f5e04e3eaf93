// SPDX-License-Identifier: MPL-2.0

//! Loops over rows, compiled for the widest vectors of the machine that runs them, and the functions they need in a form
//! that vectorises.

/// Runs `f` compiled for this machine's vector instructions. What `f` calls must be `#[inline(always)]`.
#[inline(always)]
pub(super) fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

const LANES: usize = 16;

/// Sum of `f(x)`, in sixteen running sums.
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().map(|&v| f(v)).sum();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

/// Largest value, `-inf` for none.
#[inline(always)]
pub(super) fn max_of(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().fold(tail, |a, &b| if b > a { b } else { a })
}

/// `e^x` to about 2 units in the last place, 0 below -87: range reduction by ln 2 in two parts, then a polynomial of degree
/// 6 (Cephes' `expf` scheme). NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits of the sum: no conversion is needed.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.3 { -87.3 } else { x };
    let clamped = if clamped > 88.3 { 88.3 } else { clamped };
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_6e-1;
    let p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // n is in [-126, 127]; what stands above the lowest nine bits is shifted out.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { y * scale }
}

/// `tanh x`, absolute error below 2e-7.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(super) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in its tanh form, `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))` = `x * sigmoid(2 * ...)`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    const SCALE: f32 = 2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2; // 2 sqrt(2 / pi)
    x / (1.0 + exp(-SCALE * (x + 0.044_715 * x * x * x)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_match_the_standard_library() {
        for i in -100_000..=100_000 {
            let x = i as f32 * 1e-3;
            let wide = f64::from(x);
            let relative = (f64::from(exp(x.min(88.0))) / wide.min(88.0).exp() - 1.0).abs();
            assert!(relative < 3e-7 || x < -87.3, "exp({x}): {relative}");
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 2e-7, "tanh({x})");
            let expected = wide / (1.0 + (-wide).exp());
            assert!((f64::from(silu(x)) - expected).abs() < 5e-7 * expected.abs().max(1.0), "silu({x})");
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (wide + 0.044_715 * wide.powi(3));
            let expected = 0.5 * wide * (1.0 + inner.tanh());
            assert!((f64::from(gelu(x)) - expected).abs() < 5e-7 * expected.abs().max(1.0), "gelu({x})");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan() && silu(f32::NAN).is_nan() && gelu(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_the_tail() {
        let x: Vec<f32> = (0..37).map(|i| i as f32 - 36.0).collect();
        assert_eq!(sum_of(&x, |v| v), -666.0);
        assert_eq!(max_of(&x), 0.0);
        assert_eq!(max_of(&[]), f32::NEG_INFINITY);
    }
}
