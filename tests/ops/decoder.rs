// SPDX-License-Identifier: MPL-2.0

//! The ends of the decoder, and the watch for values that are not finite.

use gstflashvsr::backend::Backend;

use crate::reference::{Array, agrees, constant};

pub fn decoder_input<B: Backend>(b: &B) {
    for (rows, cols, magnitude) in [(1, 1, 1.0), (2, 3, 1.0), (5, 7, 3.0), (2, 2, 1e4)] {
        let pictures = [0, 1, 2, 3].map(|t| Array::random(&format!("picture{t}"), &[3, 8 * rows, 8 * cols], 0.5));
        let latent = Array::random("latent", &[rows, cols, 16], magnitude);
        let want = Array::build([rows, cols, 784], |[y, x, channel]| {
            let value = match channel.checked_sub(768) {
                Some(c) => latent.at([y, x, c]),
                None => {
                    let (c, dt, dy, dx) = (channel / 256, channel / 64 % 4, channel / 8 % 8, channel % 8);
                    pictures[dt].at([c, 8 * y + dy, 8 * x + dx])
                }
            };
            (value / 3.0).tanh() * 3.0
        });
        let handles = pictures.each_ref().map(|picture| picture.picture(b));
        let got = b.decoder_input(handles.each_ref(), &latent.map(b)).unwrap();
        agrees(b, &format!("{rows}x{cols}, latent of deviation {magnitude}"), &got, &want);
    }
}

pub fn to_picture<B: Backend>(b: &B) {
    for (rows, cols) in [(1, 1), (3, 2), (17, 33)] {
        let map = Array::random("map", &[rows, cols, 3], 1.0);
        let want = Array::build([3, rows, cols], |[c, y, x]| map.at([y, x, c]) * 2.0 - 1.0);
        agrees(b, &format!("{rows}x{cols}"), &b.to_picture(&map.map(b)).unwrap(), &want);
    }
}

pub fn is_finite<B: Backend>(b: &B) {
    let kinds: [(&str, &[usize]); 3] = [("rows", &[5, 7]), ("map", &[5, 7, 3]), ("picture", &[3, 5, 7])];
    for (kind, shape) in kinds {
        let upload = |x: &Array| match kind {
            "rows" => x.rows(b),
            "map" => x.map(b),
            _ => x.picture(b),
        };
        let fine = Array::random("fine", shape, 1.0);
        assert!(b.is_finite(&upload(&fine)).unwrap(), "{kind}");
        let largest = Array::of_host(&constant(f32::MAX, shape));
        assert!(b.is_finite(&upload(&largest)).unwrap(), "{kind} of the largest values");
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for place in [0, fine.values.len() / 2, fine.values.len() - 1] {
                let mut broken = fine.clone();
                broken.values[place] = bad;
                assert!(!b.is_finite(&upload(&broken)).unwrap(), "{kind} with {bad} at {place}");
            }
        }
    }
}
