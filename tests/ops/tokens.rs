// SPDX-License-Identifier: MPL-2.0

//! Linear layers, norms, patches and noise.

use gstflashvsr::backend::{Backend, Epilogue, Grid, noise as published};

use crate::reference::{Array, agrees, agrees_within, dot, equals, window_order};

/// Rows, features in, features out.
const LINEAR: [(usize, usize, usize); 9] = [
    (1, 128, 128),
    (1, 64, 384),
    (3, 96, 256),
    (7, 256, 64),
    (37, 128, 128),
    (129, 256, 384),
    (130, 512, 128),
    (260, 200, 264),
    (300, 72, 1000),
];

pub fn round_trips<B: Backend>(b: &B) {
    for (n, c) in [(1, 1), (3, 5), (17, 128)] {
        let x = Array::random("rows", &[n, c], 1.0);
        equals(b, "rows", &x.rows(b), &x);
        assert!(b.rows(&[0.0; 7], n, c).is_err(), "7 values are no {n}x{c} rows");
    }
    for (n, c) in [(128, 128), (384, 256)] {
        let x = Array::random("heads", &[n, c], 1.0);
        equals(b, "heads", &x.heads(b), &x);
    }
    for (h, w, c) in [(1, 1, 1), (2, 3, 16), (9, 7, 5), (16, 16, 33)] {
        let x = Array::random("map", &[h, w, c], 1.0);
        equals(b, "map", &x.map(b), &x);
    }
    for (h, w) in [(1, 1), (3, 2), (17, 33)] {
        let x = Array::random("picture", &[3, h, w], 1.0);
        equals(b, "picture", &x.picture(b), &x);
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

fn product(x: &Array, weight: &Array, bias: Option<&Array>) -> Array {
    Array::build([x.shape[0], weight.shape[0]], |[n, o]| {
        dot(x.row(n), weight.row(o)) + bias.map_or(0.0, |bias| bias.at([o]))
    })
}

pub fn linear<B: Backend>(b: &B) {
    for (n, inputs, outputs) in LINEAR {
        let case = |what: &str| format!("{n}x{inputs} to {outputs}, {what}");
        let x = Array::random("x", &[n, inputs], 1.0);
        let weight = Array::random("weight", &[outputs, inputs], 1.0 / (inputs as f64).sqrt());
        let bias = Array::random("bias", &[outputs], 1.0);
        let residual = Array::random("residual", &[n, outputs], 1.0);
        let gate = Array::random("gate", &[outputs], 1.0);
        let plain = product(&x, &weight, Some(&bias));
        let biased = b.prepare_linear(weight.host(), Some(&bias.host()), None).unwrap();
        let unbiased = b.prepare_linear(weight.host(), None, None).unwrap();
        let gated_layer = b.prepare_linear(weight.host(), Some(&bias.host()), Some(&gate.host())).unwrap();
        let (rows, residual_rows) = (x.rows(b), residual.rows(b));
        let run = |epilogue| b.linear(&rows, &biased, epilogue).unwrap();

        agrees(b, &case("plain"), &run(Epilogue::None), &plain);
        let without = b.linear(&rows, &unbiased, Epilogue::None).unwrap();
        agrees(b, &case("without bias"), &without, &product(&x, &weight, None));
        agrees(b, &case("gelu"), &run(Epilogue::Gelu), &plain.map_values(gelu));
        let sum = Array::build([n, outputs], |i| residual.at(i) + plain.at(i));
        agrees(b, &case("add"), &run(Epilogue::Add(&residual_rows)), &sum);
        let gated = Array::build([n, outputs], |[r, o]| residual.at([r, o]) + gate.at([o]) * plain.at([r, o]));
        let sum = b.linear(&rows, &gated_layer, Epilogue::Add(&residual_rows)).unwrap();
        agrees(b, &case("gated add"), &sum, &gated);
        assert!(b.linear(&rows, &gated_layer, Epilogue::None).is_err(), "a gate without a residual");
        equals(b, &case("residual untouched"), &residual_rows, &residual);
    }
}

pub fn linear_of_large_values<B: Backend>(b: &B) {
    let x = Array::random("large", &[5, 128], 1e4);
    let weight = Array::random("weight", &[128, 128], 1.0);
    let layer = b.prepare_linear(weight.host(), None, None).unwrap();
    let plain = product(&x, &weight, None);
    agrees(b, "gelu", &b.linear(&x.rows(b), &layer, Epilogue::Gelu).unwrap(), &plain.map_values(gelu));
}

pub fn linear_of_maps<B: Backend>(b: &B) {
    for (h, w, inputs, outputs) in [(1, 1, 96, 128), (3, 5, 96, 256), (8, 8, 128, 128)] {
        let x = Array::random("map", &[h, w, inputs], 1.0);
        let weight = Array::random("weight", &[outputs, inputs], 0.1);
        let bias = Array::random("bias", &[outputs], 1.0);
        let layer = b.prepare_linear(weight.host(), Some(&bias.host()), None).unwrap();
        let want = Array::build([h * w, outputs], |[n, o]| dot(x.row(n), weight.row(o)) + bias.at([o]));
        agrees(b, &format!("{h}x{w}"), &b.linear(&x.map(b), &layer, Epilogue::None).unwrap(), &want);
    }
}

pub fn layer_norm<B: Backend>(b: &B) {
    for (n, dim) in [(1, 128), (3, 256), (37, 384), (130, 128)] {
        let (scale, shift) = (Array::random("scale", &[dim], 1.0), Array::random("shift", &[dim], 1.0));
        let norm = |x: &Array| {
            Array::build([n, dim], |[r, c]| {
                let row = x.row(r);
                let mean = row.iter().sum::<f64>() / dim as f64;
                let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / dim as f64;
                (row[c] - mean) / (variance + 1e-6).sqrt() * scale.at([c]) + shift.at([c])
            })
        };
        let (scales, shifts) = (scale.vector(b), shift.vector(b));
        let run = |x: &Array| b.layer_norm(&x.rows(b), &scales, &shifts).unwrap();
        for magnitude in [1e-4, 1.0, 1e4] {
            let x = Array::random("x", &[n, dim], magnitude);
            agrees(b, &format!("{n}x{dim} of deviation {magnitude}"), &run(&x), &norm(&x));
        }
        // A mean far above the deviation: the variance must not be a difference of large sums.
        let far = Array::around("x", &[n, dim], 1.0, 100.0);
        agrees_within(b, &format!("{n}x{dim} far from 0"), &run(&far), &norm(&far), 1e-4);
        let flat = Array::build([n, dim], |[r, _]| r as f64 * 0.5);
        agrees(b, &format!("{n}x{dim}, constant rows"), &run(&flat), &Array::build([n, dim], |[_, c]| shift.at([c])));
    }
}

/// A row times the inverse of its root mean square, and `gamma`.
pub fn rms_normed(row: &[f64], gamma: &Array) -> Vec<f64> {
    let mean = dot(row, row) / row.len() as f64;
    row.iter().zip(&gamma.values).map(|(v, g)| v / (mean + 1e-6).sqrt() * g).collect()
}

pub fn rms_norm<B: Backend>(b: &B) {
    for (n, dim) in [(1, 128), (3, 256), (37, 384), (130, 128)] {
        let gamma = Array::around("gamma", &[dim], 0.3, 1.0);
        for magnitude in [0.0, 1e-4, 1.0, 1e4] {
            let x = Array::random("x", &[n, dim], magnitude);
            let want = (0..n).flat_map(|r| rms_normed(x.row(r), &gamma)).collect();
            let want = Array { shape: vec![n, dim], values: want };
            let got = b.rms_norm(&x.rows(b), &gamma.vector(b)).unwrap();
            agrees(b, &format!("{n}x{dim} of deviation {magnitude}"), &got, &want);
        }
    }
}

const GRIDS: [(usize, usize, usize); 4] = [(2, 8, 8), (2, 8, 24), (4, 16, 8), (6, 16, 16)];

pub fn embed_patches<B: Backend>(b: &B) {
    for ((frames, rows, cols), dim) in GRIDS.into_iter().zip([128, 256, 128, 384]) {
        let grid = Grid { frames, rows, cols };
        let per_frame = |name: &str, shape: &[usize]| -> Vec<Array> {
            (0..frames).map(|t| Array::random(&format!("{name}{t}"), shape, 1.0)).collect()
        };
        let latents = per_frame("latent", &[2 * rows, 2 * cols, 16]);
        let lq = per_frame("lq", &[rows * cols, dim]);
        let weight = Array::random("weight", &[dim, 64], 0.125);
        let bias = Array::random("bias", &[dim], 1.0);
        let order = window_order(grid);
        let want = Array::build([grid.tokens(), dim], |[token, o]| {
            let (t, row, col) = order[token];
            let mut sum = bias.at([o]) + lq[t].at([row * cols + col, o]);
            for feature in 0..64 {
                let (dy, dx, c) = (feature / 32, feature / 16 % 2, feature % 16);
                sum += weight.at([o, feature]) * latents[t].at([2 * row + dy, 2 * col + dx, c]);
            }
            sum
        });
        let latents: Vec<_> = latents.iter().map(|x| x.map(b)).collect();
        let lq: Vec<_> = lq.iter().map(|x| x.rows(b)).collect();
        let layer = b.prepare_linear(weight.host(), Some(&bias.host()), None).unwrap();
        agrees(b, &format!("{grid:?}"), &b.embed_patches(&latents, &layer, &lq, grid).unwrap(), &want);
    }
}

pub fn denoise<B: Backend>(b: &B) {
    for (frames, rows, cols) in GRIDS {
        let grid = Grid { frames, rows, cols };
        let shape = [2 * rows, 2 * cols, 16];
        let noise: Vec<_> = (0..frames).map(|t| Array::random(&format!("noise{t}"), &shape, 1.0)).collect();
        let head = Array::random("head", &[grid.tokens(), 64], 1.0);
        let mut want = noise.clone();
        for (token, (t, row, col)) in window_order(grid).into_iter().enumerate() {
            for feature in 0..64 {
                let (dy, dx, c) = (feature / 32, feature / 16 % 2, feature % 16);
                want[t].values[((2 * row + dy) * 2 * cols + 2 * col + dx) * 16 + c] -= head.at([token, feature]);
            }
        }
        let maps: Vec<_> = noise.iter().map(|x| x.map(b)).collect();
        let clean = b.denoise(&maps, &head.rows(b), grid).unwrap();
        assert_eq!(clean.len(), frames, "{grid:?}");
        for (t, (got, want)) in clean.iter().zip(&want).enumerate() {
            agrees(b, &format!("{grid:?}, frame {t}"), got, want);
        }
    }
}

pub fn noise<B: Backend>(b: &B) {
    let grid = Grid { frames: 2, rows: 8, cols: 24 };
    let (height, width) = (2 * grid.rows, 2 * grid.cols);
    for (seed, window) in [(0, 0), (7, 3), (u64::MAX, 1 << 40)] {
        let maps = b.noise(seed, window, grid).unwrap();
        assert_eq!(maps.len(), grid.frames);
        for (t, map) in maps.iter().enumerate() {
            let want = Array::build([height, width, 16], |[y, x, c]| {
                let element = ((t * height + y) * width + x) * 16 + c;
                f64::from(published::normals(seed, window, element as u64 / 4)[element % 4])
            });
            agrees(b, &format!("seed {seed}, window {window}, frame {t}"), map, &want);
        }
    }
}
