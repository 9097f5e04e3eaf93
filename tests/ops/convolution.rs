// SPDX-License-Identifier: MPL-2.0

//! Maps: space-to-depth, convolutions, upsampling, norm over channels.

use gstflashvsr::backend::Backend;

use crate::reference::{Array, agrees, equals, silu};

pub fn pixel_unshuffle<B: Backend>(b: &B) {
    for (rows, cols) in [(1, 1), (2, 3), (5, 8)] {
        let picture = Array::random("picture", &[3, 16 * rows, 16 * cols], 1.0);
        let want = Array::build([rows, cols, 768], |[y, x, channel]| {
            picture.at([channel / 256, 16 * y + channel / 16 % 16, 16 * x + channel % 16])
        });
        equals(b, &format!("{rows}x{cols}"), &b.pixel_unshuffle(&picture.picture(b)).unwrap(), &want);
    }
}

/// `index + offset - 1`, held inside `0..len`.
fn replicated(index: usize, offset: usize, len: usize) -> usize {
    (index + offset).saturating_sub(1).min(len - 1)
}

pub fn causal_conv3d<B: Backend>(b: &B) {
    let shapes = [
        (4, 1, 1, 1, 1),
        (4, 3, 5, 2, 3),
        (6, 8, 16, 5, 1),
        (8, 16, 8, 7, 9),
        (4, 96, 33, 3, 4),
        (6, 32, 64, 8, 8),
        (4, 72, 136, 3, 5),
        (6, 8, 264, 12, 12),
    ];
    for (count, inputs, outputs, rows, cols) in shapes {
        let case = format!("{count} maps of {rows}x{cols}x{inputs} to {outputs}");
        let maps: Vec<_> = (0..count).map(|t| Array::random(&format!("map{t}"), &[rows, cols, inputs], 1.0)).collect();
        let deviation = 1.0 / (36.0 * inputs as f64).sqrt();
        let weight = Array::random("weight", &[outputs, inputs, 4, 3, 3], deviation);
        let bias = Array::random("bias", &[outputs], 1.0);
        let conv = b.prepare_conv3d(weight.host(), &bias.host()).unwrap();
        let handles: Vec<_> = maps.iter().map(|map| map.map(b)).collect();
        let got = b.causal_conv3d(&handles, &conv).unwrap();
        assert_eq!(got.len(), count / 2 - 1, "{case}");
        for (i, got) in got.iter().enumerate() {
            let want = Array::build([rows, cols, outputs], |[y, x, o]| {
                let mut sum = bias.at([o]);
                for (dt, map) in maps[2 * i..2 * i + 4].iter().enumerate() {
                    for (dy, dx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
                        let (y, x) = (replicated(y, dy, rows), replicated(x, dx, cols));
                        sum += (0..inputs).map(|c| weight.at([o, c, dt, dy, dx]) * map.at([y, x, c])).sum::<f64>();
                    }
                }
                sum
            });
            agrees(b, &format!("{case}, output {i}"), got, &want);
        }
    }
}

pub fn rms_norm_silu<B: Backend>(b: &B) {
    for (rows, cols, channels) in [(1, 1, 1), (2, 3, 5), (7, 9, 64), (8, 8, 96), (3, 1, 257)] {
        let gamma = Array::around("gamma", &[channels], 0.3, 1.0);
        for magnitude in [0.0, 1e-3, 1.0, 1e4] {
            let map = Array::random("map", &[rows, cols, channels], magnitude);
            let want = Array::build([rows, cols, channels], |[y, x, c]| {
                let norm = map.row(y * cols + x).iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12);
                silu(map.at([y, x, c]) / norm * (channels as f64).sqrt() * gamma.at([c]))
            });
            let got = b.rms_norm_silu(&map.map(b), &gamma.vector(b)).unwrap();
            agrees(b, &format!("{rows}x{cols}x{channels} of deviation {magnitude}"), &got, &want);
        }
    }
}

/// A 3x3 convolution of maps, zeros around.
fn convolved(map: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    let [rows, cols, inputs] = map.shape[..] else { panic!("{:?} is no map", map.shape) };
    Array::build([rows, cols, weight.shape[0]], |[y, x, o]| {
        let mut sum = bias.map_or(0.0, |bias| bias.at([o]));
        for (dy, dx) in (0..9).map(|tap| (tap / 3, tap % 3)) {
            if (1..=rows).contains(&(y + dy)) && (1..=cols).contains(&(x + dx)) {
                let (y, x) = (y + dy - 1, x + dx - 1);
                sum += (0..inputs).map(|c| weight.at([o, c, dy, dx]) * map.at([y, x, c])).sum::<f64>();
            }
        }
        sum
    })
}

fn relu(x: f64) -> f64 {
    x.max(0.0)
}

const SHAPES: [(usize, usize, usize, usize); 8] = [
    (1, 1, 1, 1),
    (2, 3, 3, 5),
    (5, 1, 16, 16),
    (7, 9, 16, 3),
    (8, 8, 33, 32),
    (3, 17, 64, 16),
    (13, 11, 72, 120),
    (5, 7, 24, 136),
];

pub fn conv2d<B: Backend>(b: &B) {
    for (rows, cols, inputs, outputs) in SHAPES {
        let case = |what: &str| format!("{rows}x{cols}x{inputs} to {outputs}, {what}");
        let map = |name: &str, channels: usize| Array::random(name, &[rows, cols, channels], 1.0);
        let (x, past, skip) = (map("x", inputs), map("past", inputs), map("skip", outputs));
        let bias = Array::random("bias", &[outputs], 1.0);
        let sum = |a: &Array, b: &Array| Array::build([rows, cols, outputs], |i| a.at(i) + b.at(i));

        let weight = Array::random("weight", &[outputs, inputs, 3, 3], 1.0 / (9.0 * inputs as f64).sqrt());
        let plain = convolved(&x, &weight, Some(&bias));
        let biased = b.prepare_conv2d(weight.host(), Some(&bias.host()), 1).unwrap();
        let unbiased = b.prepare_conv2d(weight.host(), None, 1).unwrap();
        let (x_map, past_map, skip_map) = (x.map(b), past.map(b), skip.map(b));
        let run = |skip, relu| b.conv2d(&x_map, None, &biased, skip, relu).unwrap();
        agrees(b, &case("plain"), &run(None, false), &plain);
        agrees(b, &case("relu"), &run(None, true), &plain.map_values(relu));
        agrees(b, &case("skip"), &run(Some(&skip_map), false), &sum(&plain, &skip));
        agrees(b, &case("skip, relu"), &run(Some(&skip_map), true), &sum(&plain, &skip).map_values(relu));
        let got = b.conv2d(&x_map, None, &unbiased, None, false).unwrap();
        agrees(b, &case("without bias"), &got, &convolved(&x, &weight, None));
        equals(b, &case("skip untouched"), &skip_map, &skip);

        let weight = Array::random("weight of two", &[outputs, 2 * inputs, 3, 3], 1.0 / (9.0 * inputs as f64).sqrt());
        let both = b.prepare_conv2d(weight.host(), Some(&bias.host()), 2).unwrap();
        let beside = |past: &dyn Fn([usize; 3]) -> f64| {
            Array::build([rows, cols, 2 * inputs], |[y, col, c]| match c.checked_sub(inputs) {
                Some(c) => past([y, col, c]),
                None => x.at([y, col, c]),
            })
        };
        let want = convolved(&beside(&|i| past.at(i)), &weight, Some(&bias)).map_values(relu);
        agrees(b, &case("past"), &b.conv2d(&x_map, Some(&past_map), &both, None, true).unwrap(), &want);
        let want = convolved(&beside(&|_| 0.0), &weight, Some(&bias)).map_values(relu);
        agrees(b, &case("no past"), &b.conv2d(&x_map, None, &both, None, true).unwrap(), &want);
    }
}

pub fn upsample_conv<B: Backend>(b: &B) {
    for ((rows, cols, inputs, outputs), (grown, mid)) in
        SHAPES.into_iter().zip([(1, 1), (2, 3), (1, 16), (2, 16), (1, 32), (2, 5), (2, 8), (2, 3)])
    {
        let x = Array::random("x", &[rows, cols, inputs], 1.0);
        let grow = Array::random("grow", &[grown * mid, inputs, 1, 1], 1.0 / (inputs as f64).sqrt());
        let weight = Array::random("weight", &[outputs, mid, 3, 3], 1.0 / (9.0 * mid as f64).sqrt());
        let conv = b.prepare_upsample_conv(&grow.host(), &weight.host()).unwrap();
        for with_relu in [false, true] {
            let got = b.upsample_conv(&x.map(b), &conv, with_relu).unwrap();
            assert_eq!(got.len(), grown);
            for (step, got) in got.iter().enumerate() {
                let wide = Array::build([2 * rows, 2 * cols, mid], |[y, col, m]| {
                    (0..inputs).map(|c| grow.at([step * mid + m, c, 0, 0]) * x.at([y / 2, col / 2, c])).sum()
                });
                let want = convolved(&wide, &weight, None);
                let want = if with_relu { want.map_values(relu) } else { want };
                agrees(b, &format!("{rows}x{cols}x{inputs} to {outputs}, step {step} of {grown}"), got, &want);
            }
        }
    }
}
