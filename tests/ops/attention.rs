// SPDX-License-Identifier: MPL-2.0

//! Queries and keys, the draft mask, and attention under it.

use gstflashvsr::backend::{Backend, DraftMask, Grid, KvGroup, Rope};

use crate::reference::{Array, agrees, agrees_within, dot, softmax, tolerance, window_order};
use crate::tokens::rms_normed;

const HEAD: usize = 128;
const WINDOW: usize = 128;

/// Means over the 128 rows of each window.
fn window_means(rows: &Array) -> Array {
    Array::build([rows.shape[0] / WINDOW, rows.shape[1]], |[window, c]| {
        (0..WINDOW).map(|token| rows.at([window * WINDOW + token, c])).sum::<f64>() / WINDOW as f64
    })
}

/// The angle of a channel pair of a head: 22 pairs for time, 21 for rows, 21 for columns.
fn angle(pair: usize, [time, row, col]: [f64; 3]) -> f64 {
    let (position, pair, channels) = match pair {
        0..22 => (time, pair, 44.0),
        22..43 => (row, pair - 22, 42.0),
        _ => (col, pair - 43, 42.0),
    };
    position * 10_000f64.powf(-2.0 * pair as f64 / channels)
}

pub fn qk_norm_rope<B: Backend>(b: &B) {
    let cases = [
        (Grid { frames: 2, rows: 8, cols: 8 }, 128, 0, 1.0),
        (Grid { frames: 4, rows: 8, cols: 16 }, 256, 6, 1.0),
        (Grid { frames: 2, rows: 24, cols: 16 }, 384, 3001, 1e3),
        (Grid { frames: 6, rows: 8, cols: 8 }, 256, 200_000, 1e-3),
    ];
    for (grid, dim, first_frame, magnitude) in cases {
        let case = |what: &str| format!("{what} of {grid:?}, width {dim}, from frame {first_frame}");
        let tokens = grid.tokens();
        let qkv = Array::random("qkv", &[tokens, 3 * dim], magnitude);
        let gammas = [Array::around("norm_q", &[dim], 0.3, 1.0), Array::around("norm_k", &[dim], 0.3, 1.0)];
        let order = window_order(grid);
        let rotated = |part: usize| {
            let mut values = Vec::with_capacity(tokens * dim);
            for (token, &(frame, row, col)) in order.iter().enumerate() {
                let normed = rms_normed(&qkv.row(token)[part * dim..(part + 1) * dim], &gammas[part]);
                let position = [(first_frame as usize + frame) as f64, row as f64, col as f64];
                for (pair, x) in normed.chunks_exact(2).enumerate() {
                    let (sin, cos) = angle(pair % (HEAD / 2), position).sin_cos();
                    values.extend([x[0] * cos - x[1] * sin, x[0] * sin + x[1] * cos]);
                }
            }
            Array { shape: vec![tokens, dim], values }
        };
        let (q, k) = (rotated(0), rotated(1));
        let v = Array::build([tokens, dim], |[token, c]| qkv.at([token, 2 * dim + c]));

        let rope = b.rope(Rope::new(first_frame, grid.frames, grid.rows, grid.cols)).unwrap();
        let [norm_q, norm_k] = gammas.each_ref().map(|gamma| gamma.vector(b));
        let got = b.qk_norm_rope(&qkv.rows(b), &norm_q, &norm_k, &rope, grid).unwrap();
        agrees(b, &case("q"), &got.q, &q);
        agrees(b, &case("mean q"), &got.q_mean, &window_means(&q));
        assert_eq!(got.groups.len(), grid.groups(), "{}", case("frame pairs"));
        let per_group = tokens / grid.groups();
        for (g, group) in got.groups.iter().enumerate() {
            let part = |x: &Array| Array::build([per_group, dim], |[r, c]| x.at([g * per_group + r, c]));
            agrees(b, &case("k"), &group.k, &part(&k));
            agrees(b, &case("v"), &group.v, &part(&v));
            agrees(b, &case("mean k"), &group.k_mean, &window_means(&part(&k)));
        }
    }
}

/// One draft mask to make: spatial windows, frame pairs of queries and of keys.
struct Draft {
    rows: usize,
    cols: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    local_range: usize,
    top_k: usize,
}

impl Draft {
    const fn new(rows: usize, cols: usize, pairs: [usize; 2], heads: usize, local_range: usize, top_k: usize) -> Self {
        Self { rows, cols, queries: pairs[0], keys: pairs[1], heads, local_range, top_k }
    }

    fn windows(&self) -> usize {
        self.rows * self.cols
    }

    fn params(&self) -> DraftMask {
        DraftMask { window_rows: self.rows, window_cols: self.cols, local_range: self.local_range, top_k: self.top_k }
    }

    /// Whether key window `k` of a frame pair is in the neighbourhood of query window `q`.
    fn is_local(&self, q: usize, k: usize) -> bool {
        let near = |q: usize, k: usize| {
            let (q, k, range) = (q as i64, k as i64, self.local_range as i64);
            (q - range / 2..=q - range / 2 + range - 1).contains(&k)
        };
        near(q / self.cols, k / self.cols) && near(q % self.cols, k % self.cols)
    }

    /// The mask by definition, `[heads, query windows, key windows]`.
    fn mask(&self, q_mean: &Array, k_mean: &Array) -> Array {
        let (s, all_keys) = (self.windows(), self.keys * self.windows());
        let mut mask = Array::build([self.heads, self.queries * s, all_keys], |_| 0.0);
        for head in 0..self.heads {
            let channels = head * HEAD..(head + 1) * HEAD;
            for pair in 0..self.queries {
                let mut table = Vec::with_capacity(s * all_keys);
                for q in 0..s {
                    let query = &q_mean.row(pair * s + q)[channels.clone()];
                    let score = |k: usize| match self.is_local(q, k % s) {
                        true => dot(query, &k_mean.row(k)[channels.clone()]) / (HEAD as f64).sqrt(),
                        false => f64::NEG_INFINITY,
                    };
                    table.extend(softmax(&(0..all_keys).map(score).collect::<Vec<_>>()));
                }
                let mut sorted = table.clone();
                sorted.sort_by(|a, b| b.total_cmp(a));
                let threshold = sorted[self.top_k.min(table.len() - 1)];
                let start = (head * self.queries + pair) * s * all_keys;
                for (entry, probability) in mask.values[start..].iter_mut().zip(&table) {
                    *entry = f64::from(u8::from(*probability > threshold));
                }
            }
        }
        mask
    }

    fn run<B: Backend>(&self, b: &B, q_mean: &Array, k_mean: &Array) -> B::Mask {
        let (s, dim) = (self.windows(), self.heads * HEAD);
        let groups: Vec<_> =
            (0..self.keys).map(|g| Array::build([s, dim], |[w, c]| k_mean.at([g * s + w, c])).rows(b)).collect();
        b.draft_mask(&q_mean.rows(b), &groups.iter().collect::<Vec<_>>(), &self.params()).unwrap()
    }

    fn check<B: Backend>(&self, b: &B, case: &str, q_mean: &Array, k_mean: &Array) -> Array {
        let (want, mask) = (self.mask(q_mean, k_mean), self.run(b, q_mean, k_mean));
        let got = Array::of_host(&b.mask_to_host(&mask).unwrap());
        assert_eq!(got.shape, want.shape, "{case}");
        let wrong: Vec<_> = (0..got.values.len()).filter(|&i| got.values[i] != want.values[i]).collect();
        assert!(wrong.is_empty(), "{case}: entries {wrong:?} of {:?} differ", want.shape);
        want
    }
}

/// Whether a row of the mask is empty.
fn has_empty_row(mask: &Array) -> bool {
    (0..mask.shape[0] * mask.shape[1]).any(|row| mask.row(row).iter().all(|&entry| entry == 0.0))
}

pub fn draft_mask<B: Backend>(b: &B) {
    let drafts = [
        Draft::new(1, 1, [3, 3], 1, 11, 2),
        Draft::new(1, 2, [3, 3], 2, 11, 5),
        Draft::new(1, 2, [1, 4], 2, 11, 1),
        Draft::new(3, 3, [3, 3], 3, 3, 80),
        Draft::new(3, 3, [1, 3], 2, 3, 15),
        Draft::new(3, 5, [1, 2], 1, 4, 40), // an even range is lopsided
        Draft::new(4, 3, [2, 3], 2, 2, 9),
        Draft::new(5, 5, [1, 2], 1, 1, 7),   // nothing but itself
        Draft::new(2, 2, [1, 2], 2, 11, 0),  // keeps nothing
        Draft::new(2, 2, [1, 2], 2, 11, 31), // all but the smallest
        Draft::new(2, 2, [1, 2], 2, 11, 100_000),
        Draft::new(3, 3, [1, 2], 1, 1, 100_000), // all that are local: the others have probability 0
    ];
    let mut empty_rows = false;
    for (i, draft) in drafts.iter().enumerate() {
        let dim = draft.heads * HEAD;
        let q_mean = Array::random("q mean", &[draft.queries * draft.windows(), dim], 1.0);
        let k_mean = Array::random("k mean", &[draft.keys * draft.windows(), dim], 1.0);
        let mask = draft.check(b, &format!("draft {i}"), &q_mean, &k_mean);
        empty_rows |= draft.top_k > 0 && has_empty_row(&mask);
    }
    assert!(empty_rows, "no draft leaves a query window without keys");
}

/// Entries that equal the threshold are dropped, all of them. Static pictures make such ties.
pub fn draft_mask_ties<B: Backend>(b: &B) {
    let draft = |top_k| Draft::new(1, 4, [1, 1], 1, 11, top_k);
    // Every query alike; the keys score 3, 2, 2 and 1: small integers, so that every sum is exact.
    let one_hot = |values: [f64; 4]| Array::build([4, HEAD], |[w, c]| if c == 5 { values[w] } else { 0.0 });
    let (q_mean, k_mean) = (one_hot([1.0; 4]), one_hot([3.0, 2.0, 2.0, 1.0]));
    for (top_k, kept) in [(0, 0.0), (1, 0.0), (3, 0.0), (4, 4.0), (8, 4.0), (11, 4.0), (12, 12.0), (15, 12.0)] {
        let mask = draft(top_k).check(b, &format!("top k {top_k}"), &q_mean, &k_mean);
        assert_eq!(mask.values.iter().sum::<f64>(), kept, "top k {top_k}");
    }
}

/// Attention of one query row to some key rows, per head.
fn attend(query: &[f64], k: &Array, v: &Array, keys: &[Vec<usize>], out: &mut Vec<f64>) {
    for (head, keys) in keys.iter().enumerate() {
        let channels = head * HEAD..(head + 1) * HEAD;
        let scores: Vec<f64> = keys
            .iter()
            .map(|&key| dot(&query[channels.clone()], &k.row(key)[channels.clone()]) / (HEAD as f64).sqrt())
            .collect();
        let start = out.len();
        out.resize(start + HEAD, 0.0);
        for (&key, probability) in keys.iter().zip(softmax(&scores)) {
            for (o, value) in out[start..].iter_mut().zip(&v.row(key)[channels.clone()]) {
                *o += probability * value;
            }
        }
    }
}

/// A score of f32 is off by units in its last place, and its probability by that share: more, the larger the scores.
fn tolerance_of_scores(magnitude: f64) -> f64 {
    tolerance() * (magnitude / 10.0).max(1.0)
}

/// Runs a draft mask and attention under it on random rows, the queries of deviation `magnitude`.
fn sparse<B: Backend>(b: &B, draft: &Draft, magnitude: f64) -> Array {
    let (s, dim) = (draft.windows(), draft.heads * HEAD);
    let q = Array::random("q", &[draft.queries * s * WINDOW, dim], magnitude);
    let k = Array::random("k", &[draft.keys * s * WINDOW, dim], 1.0);
    let v = Array::random("v", &[draft.keys * s * WINDOW, dim], 1.0);
    // Means of random rows hardly differ; the mask is drawn from others, so that it is a sparse one.
    let q_mean = Array::random("q mean", &[draft.queries * s, dim], 1.0);
    let k_mean = Array::random("k mean", &[draft.keys * s, dim], 1.0);
    let mask = draft.run(b, &q_mean, &k_mean);
    let allowed = Array::of_host(&b.mask_to_host(&mask).unwrap());

    let mut values = Vec::with_capacity(q.values.len());
    for token in 0..q.shape[0] {
        let keys: Vec<Vec<usize>> = (0..draft.heads)
            .map(|head| {
                let windows = (0..draft.keys * s).filter(|&w| allowed.at([head, token / WINDOW, w]) != 0.0);
                windows.flat_map(|w| w * WINDOW..(w + 1) * WINDOW).collect()
            })
            .collect();
        attend(q.row(token), &k, &v, &keys, &mut values);
    }
    let want = Array { shape: q.shape.clone(), values };

    let part = |x: &Array, g: usize| Array::build([s * WINDOW, dim], |[r, c]| x.at([g * s * WINDOW + r, c])).heads(b);
    let groups: Vec<_> = (0..draft.keys)
        .map(|g| KvGroup {
            k: part(&k, g),
            v: part(&v, g),
            k_mean: Array::build([s, dim], |[w, c]| k_mean.at([g * s + w, c])).rows(b),
        })
        .collect();
    let got = b.block_sparse_attention(&q.heads(b), &groups.iter().collect::<Vec<_>>(), &mask).unwrap();
    let case = format!("{} of {} windows, magnitude {magnitude}", draft.top_k, s * draft.keys);
    agrees_within(b, &case, &got, &want, tolerance_of_scores(magnitude));
    allowed
}

pub fn block_sparse_attention<B: Backend>(b: &B) {
    sparse(b, &Draft::new(1, 1, [1, 1], 1, 11, 1), 1.0);
    sparse(b, &Draft::new(1, 1, [3, 3], 3, 11, 2), 1.0);
    sparse(b, &Draft::new(1, 2, [1, 4], 2, 11, 9), 1.0);
    let nothing = sparse(b, &Draft::new(1, 2, [1, 2], 1, 11, 0), 1.0);
    assert!(nothing.values.iter().all(|&entry| entry == 0.0), "a budget of 0 keeps nothing");
    let some = sparse(b, &Draft::new(2, 2, [1, 2], 2, 2, 3), 1.0);
    assert!(has_empty_row(&some), "a small budget leaves query windows without keys");
}

pub fn masks_serve_again<B: Backend>(b: &B) {
    let means = |name: &str, windows| Array::random(name, &[windows, HEAD], 1.0);
    let heads = |name: &str| Array::random(name, &[WINDOW, HEAD], 1.0).heads(b);
    let mask = Draft::new(1, 1, [1, 2], 1, 11, 1).run(b, &means("q mean", 1), &means("k mean", 2));
    let groups = ["k0", "k1"].map(|k| KvGroup { k: heads(k), v: heads("v"), k_mean: means(k, 1).rows(b) });
    let q = heads("q");
    let attend = || Array::of(b, &b.block_sparse_attention(&q, &groups.each_ref(), &mask).unwrap()).values;
    let first = attend();
    assert!(first.iter().any(|&x| x != 0.0), "the mask keeps one window");
    assert_eq!(attend(), first);
}

pub fn attention_of_large_scores<B: Backend>(b: &B) {
    // The largest score grows by a little in some rows and by much in others from one key window to the next.
    sparse(b, &Draft::new(1, 2, [1, 2], 1, 11, 6), 10.0);
    // Scores of some 300 overflow a power of e in f32 unless the largest is subtracted first.
    sparse(b, &Draft::new(1, 2, [1, 2], 1, 11, 4), 300.0);
}

pub fn cross_attention<B: Backend>(b: &B) {
    let shapes = [(1, 1, 128), (7, 5, 256), (130, 16, 128), (33, 33, 384), (128, 512, 256)];
    for ((tokens, prompt, dim), magnitude) in shapes.into_iter().zip([1.0, 1.0, 100.0, 1.0, 1.0]) {
        let q = Array::random("q", &[tokens, dim], magnitude);
        let (k, v) = (Array::random("k", &[prompt, dim], 1.0), Array::random("v", &[prompt, dim], 1.0));
        let all = vec![(0..prompt).collect(); dim / HEAD];
        let mut values = Vec::with_capacity(tokens * dim);
        for token in 0..tokens {
            attend(q.row(token), &k, &v, &all, &mut values);
        }
        let want = Array { shape: vec![tokens, dim], values };
        let got = b.cross_attention(&q.rows(b), &k.rows(b), &v.rows(b)).unwrap();
        let case = format!("{tokens} to {prompt}, width {dim}, magnitude {magnitude}");
        agrees_within(b, &case, &got, &want, tolerance_of_scores(magnitude));
    }
}
