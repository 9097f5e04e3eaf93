// SPDX-License-Identifier: MPL-2.0

//! The colour fixes.

use gstflashvsr::backend::{Backend, ColorFix};

use crate::reference::{Array, agrees, equals};

const SHAPES: [(usize, usize); 5] = [(1, 1), (2, 3), (5, 7), (37, 21), (64, 96)];

/// Mean and `sqrt(variance + 1e-5)` of a channel, the variance biased.
fn moments(picture: &Array, channel: usize) -> (f64, f64) {
    let area = picture.shape[1] * picture.shape[2];
    let plane = &picture.values[channel * area..(channel + 1) * area];
    let mean = plane.iter().sum::<f64>() / area as f64;
    let variance = plane.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / area as f64;
    (mean, (variance + 1e-5).sqrt())
}

fn fixed_by_adain(hq: &Array, lq: &Array) -> Array {
    let moments = [0, 1, 2].map(|c| (moments(hq, c), moments(lq, c)));
    Array::build([3, hq.shape[1], hq.shape[2]], |[c, y, x]| {
        let ((hq_mean, hq_std), (lq_mean, lq_std)) = moments[c];
        ((hq.at([c, y, x]) - hq_mean) / hq_std * lq_std + lq_mean).clamp(-1.0, 1.0)
    })
}

pub fn adain<B: Backend>(b: &B) {
    for (rows, cols) in SHAPES {
        let case = |what: &str| format!("{rows}x{cols}, {what}");
        let run = |hq: &Array, lq: &Array| b.color_fix(&hq.picture(b), &lq.picture(b), ColorFix::Adain).unwrap();
        let hq = Array::around("hq", &[3, rows, cols], 0.3, 0.2);
        for (deviation, mean) in [(0.2, -0.1), (1.0, 0.5), (0.0, 0.4)] {
            let lq = Array::around("lq", &[3, rows, cols], deviation, mean);
            agrees(b, &case(&format!("input of deviation {deviation}")), &run(&hq, &lq), &fixed_by_adain(&hq, &lq));
        }
        // An almost flat output: the variance is small beside the square of the mean.
        let flat = Array::around("flat", &[3, rows, cols], 0.01, 0.7);
        let lq = Array::random("lq", &[3, rows, cols], 0.3);
        agrees(b, &case("flat output"), &run(&flat, &lq), &fixed_by_adain(&flat, &lq));
    }
}

/// A 1-2-1 blur with taps `distance` apart, the edge repeated.
fn blurred(picture: &Array, distance: isize) -> Array {
    let [_, rows, cols] = picture.shape[..] else { panic!("{:?} is no picture", picture.shape) };
    let tap =
        |index: usize, step: isize, len: usize| (index as isize + step * distance).clamp(0, len as isize - 1) as usize;
    Array::build([3, rows, cols], |[c, y, x]| {
        let mut sum = 0.0;
        for (dy, dx) in (-1isize..=1).flat_map(|dy| (-1isize..=1).map(move |dx| (dy, dx))) {
            let weight = (2 - dy.abs()) * (2 - dx.abs());
            sum += weight as f64 / 16.0 * picture.at([c, tap(y, dy, rows), tap(x, dx, cols)]);
        }
        sum
    })
}

/// What is left of a picture after five levels of blurring.
fn low_frequencies(picture: &Array) -> Array {
    [1, 2, 4, 8, 16].into_iter().fold(picture.clone(), |low, distance| blurred(&low, distance))
}

pub fn wavelet<B: Backend>(b: &B) {
    for (rows, cols) in SHAPES {
        let hq = Array::around("hq", &[3, rows, cols], 0.5, 0.2);
        let lq = Array::around("lq", &[3, rows, cols], 0.3, -0.1);
        let (low_hq, low_lq) = (low_frequencies(&hq), low_frequencies(&lq));
        let want = Array::build([3, rows, cols], |i| (hq.at(i) - low_hq.at(i) + low_lq.at(i)).clamp(-1.0, 1.0));
        let got = b.color_fix(&hq.picture(b), &lq.picture(b), ColorFix::Wavelet).unwrap();
        agrees(b, &format!("{rows}x{cols}"), &got, &want);
    }
}

pub fn none<B: Backend>(b: &B) {
    // Deviation 1: many values lie outside of [-1, 1], and stay there.
    let (hq, lq) = (Array::random("hq", &[3, 9, 7], 1.0), Array::random("lq", &[3, 9, 7], 1.0));
    equals(b, "none", &b.color_fix(&hq.picture(b), &lq.picture(b), ColorFix::None).unwrap(), &hq);
}

pub fn sum<B: Backend>(b: &B) {
    for (rows, cols) in SHAPES {
        let (x, y) = (Array::random("x", &[3, rows, cols], 1.0), Array::random("y", &[3, rows, cols], 0.5));
        let want = Array::build([3, rows, cols], |at| x.at(at) + y.at(at));
        agrees(b, &format!("{rows}x{cols}"), &b.add(&x.picture(b), &y.picture(b)).unwrap(), &want);
    }
    let (small, large) = (Array::random("x", &[3, 4, 5], 1.0), Array::random("x", &[3, 5, 4], 1.0));
    assert!(b.add(&small.picture(b), &large.picture(b)).is_err());
}
