// SPDX-License-Identifier: MPL-2.0

//! Matrix products with constant weights, of which the network mostly consists.
//!
//! A general product repacks its right side in every call. Ours is packed once, into panels of [`PANEL`] columns, and
//! the left side is read in place: patches of a convolution are overlapping rows of the map itself, and the rows of its
//! kernel are one product over several [`Rows`], summed in registers. What remains is the inner loop, which keeps a tile of
//! the result in registers while it runs through a panel that stays in the second-level cache (Goto, van de Geijn: "Anatomy
//! of high-performance matrix multiplication", 2008).

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Columns of a panel: two vectors of AVX-512, four of AVX2.
pub(super) const PANEL: usize = 32;
/// Values of a row that are read at a time; as an array, so that the inner loop knows its length.
const STEP: usize = 16;
/// Rows of a panel that a pass works on: 192 KiB of weights. Longer passes store the result less often; this was the best of
/// 512 to 3072.
const PASS: usize = 1536;
/// Rows of the left side that a pass works on, so that their values and a panel fill a cache of 1 to 2 MiB.
const BLOCK: usize = 132;

/// A part of the left side: rows of `len` values that start `stride` values apart and may overlap.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub values: &'a [f32],
    pub stride: usize,
    pub len: usize,
}

/// What a product starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The bias.
    Bias,
    /// The bias and what the destination holds.
    BiasAndOut,
}

/// A row of a panel, on cache lines of its own.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line([f32; PANEL]);

/// Weights `(depth, columns)` and a bias per column, packed.
#[derive(Debug)]
pub(super) struct Weights {
    depth: usize,
    columns: usize,
    /// For each panel its `depth` lines, the last panel filled up with zeros.
    panels: Vec<Line>,
    bias: Vec<Line>,
}

impl Weights {
    /// Packs row-major `weights` of as many columns as there are values in `bias`.
    pub fn new(weights: &[f32], bias: &[f32]) -> Self {
        let columns = bias.len();
        let depth = weights.len() / columns.max(1);
        let count = columns.div_ceil(PANEL);
        let mut panels = vec![Line([0.0; PANEL]); count * depth];
        for (row, values) in weights.chunks_exact(columns.max(1)).enumerate() {
            for (panel, values) in values.chunks(PANEL).enumerate() {
                panels[panel * depth + row].0[..values.len()].copy_from_slice(values);
            }
        }
        let mut padded = vec![Line([0.0; PANEL]); count];
        padded.iter_mut().zip(bias.chunks(PANEL)).for_each(|(line, bias)| line.0[..bias.len()].copy_from_slice(bias));
        Self { depth, columns, panels, bias: padded }
    }

    /// Packs weights that are given column by column, as many columns as there are values in `bias`.
    pub fn from_columns(weights: &[f32], bias: &[f32]) -> Self {
        let depth = weights.len() / bias.len().max(1);
        let mut packed = Self::new(&[], bias);
        packed.depth = depth;
        packed.panels = vec![Line([0.0; PANEL]); packed.panels() * depth];
        let panels = packed.panels.par_chunks_exact_mut(depth.max(1)).zip(weights.par_chunks(depth.max(1) * PANEL));
        panels.for_each(|(lines, columns)| {
            for (place, column) in columns.chunks_exact(depth).enumerate() {
                lines.iter_mut().zip(column).for_each(|(line, value)| line.0[place] = *value);
            }
        });
        packed
    }

    /// Rows of the weights.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Columns of the weights.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Panels, the last of which may be partly empty.
    pub fn panels(&self) -> usize {
        self.bias.len()
    }

    /// The columns of some panels.
    pub fn columns_of(&self, panels: &Range<usize>) -> Range<usize> {
        panels.start * PANEL..(panels.end * PANEL).min(self.columns)
    }

    /// `out = start + left * weights`, then ReLU where asked for. Row `i` of the left side is row `i` of each of `parts`, one
    /// after the other; rows of `out` start `stride` values apart.
    pub fn multiply(&self, parts: &[Rows<'_>], rows: usize, out: &mut [f32], stride: usize, start: Start, relu: bool) {
        self.multiply_panels(0..self.panels(), parts, rows, out, stride, start, relu);
    }

    /// The same for some panels only; `out` has their columns.
    #[expect(clippy::too_many_arguments, reason = "a product is just that many things")]
    pub fn multiply_panels(
        &self,
        panels: Range<usize>,
        parts: &[Rows<'_>],
        rows: usize,
        out: &mut [f32],
        stride: usize,
        start: Start,
        relu: bool,
    ) {
        assert_eq!(parts.iter().map(|p| p.len).sum::<usize>(), self.depth, "depths of a product differ");
        Arch::new().dispatch(Product { weights: self, panels, parts, rows, out, stride, start, relu });
    }
}

struct Product<'a> {
    weights: &'a Weights,
    panels: Range<usize>,
    parts: &'a [Rows<'a>],
    rows: usize,
    out: &'a mut [f32],
    stride: usize,
    start: Start,
    relu: bool,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // The sums, one broadcast value and a line of weights fill the registers.
        let narrow = self.weights.columns <= S::F32_LANES;
        match (S::REGISTER_COUNT >= 32, narrow) {
            (true, false) => self.run::<S, 12, 2>(simd),
            (true, true) => self.run::<S, 24, 1>(simd),
            (false, false) => self.run::<S, 6, 2>(simd),
            (false, true) => self.run::<S, 12, 1>(simd),
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize, const VECTORS: usize>(self, simd: S) {
        let Self { weights: Weights { depth, columns, panels, bias }, parts, rows, out, stride, start, relu, .. } =
            self;
        let first_column = self.panels.start * PANEL;
        let block_rows = rows.div_ceil(rows.div_ceil(BLOCK).max(1)).next_multiple_of(ROWS);
        let mut pieces = Vec::with_capacity(parts.len());
        let mut done = 0;
        loop {
            let pass = cut(parts, done, &mut pieces);
            let (first, last) = (done == 0, done + pass == *depth);
            for block in (0..rows).step_by(block_rows.max(1)) {
                let block_end = rows.min(block + block_rows);
                for panel in self.panels.clone() {
                    let lines = &panels[panel * depth + done..][..pass];
                    let width = PANEL.min(columns - panel * PANEL);
                    // The next panel, of which each tile fetches a part.
                    let next = panels.get((panel + 1) * depth + done..).unwrap_or_default();
                    let next = &next[..pass.min(next.len())];
                    let share = next.len().div_ceil((block_end - block).div_ceil(ROWS)).max(1);
                    let mut next = next.chunks(share);
                    for row in (block..block_end).step_by(ROWS) {
                        let ahead = next.next().unwrap_or_default();
                        for at in (0..width).step_by(VECTORS * S::F32_LANES) {
                            let mut tile = Tile::<S, ROWS, VECTORS>::new(simd);
                            let count = ROWS.min(block_end - row);
                            tile.accumulate(simd, &pieces, row..row + count, PanelPart { lines, at, ahead });
                            let width = (VECTORS * S::F32_LANES).min(width - at);
                            let store = Store {
                                out: &mut out[row * stride + panel * PANEL - first_column + at..],
                                stride,
                                rows: count,
                                width,
                                bias: first.then(|| &bias[panel].0[at..at + width]),
                                add: !first || start == Start::BiasAndOut,
                                relu: last && relu,
                            };
                            tile.store(simd, store);
                        }
                    }
                }
            }
            if last {
                return;
            }
            done += pass;
        }
    }
}

/// The pieces of `parts` from depth `done` on that make a pass, and its depth.
fn cut<'a>(parts: &[Rows<'a>], done: usize, pieces: &mut Vec<Rows<'a>>) -> usize {
    pieces.clear();
    let (mut at, mut pass) = (0, 0);
    for part in parts {
        let from = done.saturating_sub(at).min(part.len);
        at += part.len;
        let len = (part.len - from).min(PASS - pass);
        if len > 0 {
            pieces.push(Rows { values: &part.values[from..], stride: part.stride, len });
            pass += len;
        }
    }
    pass
}

/// Asks for a line that will be read soon.
#[inline(always)]
fn prefetch(line: &Line) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let at = line.0.as_ptr().cast::<i8>();
        // SAFETY: prefetching is a hint that reads nothing and never faults; both addresses lie within `line`.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(at);
            _mm_prefetch::<_MM_HINT_T1>(at.add(64));
        }
    }
}

/// A tile of the result in registers.
struct Tile<S: Simd, const ROWS: usize, const VECTORS: usize> {
    sums: [[S::f32s; VECTORS]; ROWS],
}

/// What a tile is multiplied by: the panel's lines of a pass, from column `at` on; and lines to fetch on the way.
struct PanelPart<'a> {
    lines: &'a [Line],
    at: usize,
    ahead: &'a [Line],
}

/// Where a tile goes.
struct Store<'a> {
    out: &'a mut [f32],
    stride: usize,
    rows: usize,
    width: usize,
    bias: Option<&'a [f32]>,
    add: bool,
    relu: bool,
}

impl<S: Simd, const ROWS: usize, const VECTORS: usize> Tile<S, ROWS, VECTORS> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        Self { sums: [[simd.splat_f32s(0.0); VECTORS]; ROWS] }
    }

    /// Adds the product of some rows and a part of a panel.
    #[inline(always)]
    fn accumulate(&mut self, simd: S, pieces: &[Rows<'_>], rows: Range<usize>, panel: PanelPart<'_>) {
        let PanelPart { mut lines, at, ahead } = panel;
        let mut ahead = ahead.iter();
        for piece in pieces {
            let (own, rest) = lines.split_at(piece.len);
            lines = rest;
            // Rows beyond the last read that one again; their sums are not stored.
            let starts: [usize; ROWS] = std::array::from_fn(|r| (rows.start + r).min(rows.end - 1) * piece.stride);
            let (steps, tail) = own.as_chunks::<STEP>();
            for (step, lines) in steps.iter().enumerate() {
                let left: [&[f32; STEP]; ROWS] = std::array::from_fn(|r| {
                    piece.values[starts[r] + step * STEP..].first_chunk().expect("rows within their values")
                });
                ahead.by_ref().take(2).for_each(prefetch);
                self.step(simd, left, lines, at);
            }
            if !tail.is_empty() {
                let mut left = [[0.0f32; STEP]; ROWS];
                for (left, start) in left.iter_mut().zip(starts) {
                    left[..tail.len()].copy_from_slice(&piece.values[start + steps.len() * STEP..][..tail.len()]);
                }
                self.step(simd, left.each_ref(), tail, at);
            }
        }
    }

    /// Adds the products of up to [`STEP`] values of each row.
    #[inline(always)]
    fn step(&mut self, simd: S, left: [&[f32; STEP]; ROWS], lines: &[Line], at: usize) {
        // Unrolled by hand, which is worth a tenth: the compiler leaves the loop alone.
        let (fours, rest) = lines.as_chunks::<4>();
        for (i, [a, b, c, d]) in fours.iter().enumerate().take(STEP / 4) {
            self.outer_product(simd, left, 4 * i, a, at);
            self.outer_product(simd, left, 4 * i + 1, b, at);
            self.outer_product(simd, left, 4 * i + 2, c, at);
            self.outer_product(simd, left, 4 * i + 3, d, at);
        }
        for (i, line) in rest.iter().enumerate() {
            self.outer_product(simd, left, (4 * fours.len() + i) % STEP, line, at);
        }
    }

    /// Adds the outer product of value `k` of each row and a line of weights.
    #[inline(always)]
    fn outer_product(&mut self, simd: S, left: [&[f32; STEP]; ROWS], k: usize, line: &Line, at: usize) {
        let vectors = S::as_simd_f32s(&line.0[at..at + VECTORS * S::F32_LANES]).0;
        let vectors: [S::f32s; VECTORS] = std::array::from_fn(|v| vectors[v]);
        for (sums, left) in self.sums.iter_mut().zip(left) {
            let value = simd.splat_f32s(left[k]);
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                *sum = simd.mul_add_e_f32s(value, vector, *sum);
            }
        }
    }

    #[inline(always)]
    fn store(self, simd: S, to: Store<'_>) {
        let load = |x: &[f32]| match S::as_simd_f32s(x) {
            ([whole], []) => *whole,
            _ => simd.partial_load_f32s(x),
        };
        for (row, sums) in self.sums.into_iter().enumerate().take(to.rows) {
            let out = to.out[row * to.stride..][..to.width].chunks_mut(S::F32_LANES);
            for (v, (out, mut sum)) in out.zip(sums).enumerate() {
                if let Some(bias) = to.bias {
                    sum = simd.add_f32s(sum, load(&bias[v * S::F32_LANES..][..out.len()]));
                }
                if to.add {
                    sum = simd.add_f32s(sum, load(out));
                }
                if to.relu {
                    // The second operand is what comes out for NaN, so that NaN stays visible.
                    sum = simd.max_f32s(simd.splat_f32s(0.0), sum);
                }
                match S::as_mut_simd_f32s(out) {
                    ([whole], []) => *whole = sum,
                    (_, _) => simd.partial_store_f32s(out, sum),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919 + seed * 104_729) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn weights_by_column_pack_as_weights_by_row() {
        for (depth, columns) in [(1, 1), (5, 33), (40, 64), (3, 31)] {
            let (rows, bias) = (values(depth * columns, 1), values(columns, 2));
            let by_column: Vec<_> = (0..depth * columns).map(|i| rows[i % depth * columns + i / depth]).collect();
            let (want, packed) = (Weights::new(&rows, &bias), Weights::from_columns(&by_column, &bias));
            let lines = |weights: &Weights| weights.panels.iter().chain(&weights.bias).map(|l| l.0).collect::<Vec<_>>();
            assert_eq!((packed.depth, lines(&packed)), (want.depth, lines(&want)), "{depth} x {columns}");
        }
    }

    /// Small integers, so every order of summation gives the same.
    #[test]
    fn products_are_exact_at_every_shape() {
        for (rows, lens, columns) in [
            (1, &[1][..], 1),
            (13, &[16, 7], 33),
            (24, &[48, 48, 48], 16),
            (25, &[5], 3),
            (301, &[40], 64),
            (12, &[1400, 200, 1600], 40),
            (7, &[0, 3], 31),
            (0, &[4], 5),
        ] {
            let depth = lens.iter().sum::<usize>();
            let (weights, bias) = (values(depth * columns, 1), values(columns, 2));
            let packed = Weights::new(&weights, &bias);
            // Rows overlap: they start 3 values apart.
            let left: Vec<_> = lens.iter().map(|&len| values(3 * rows + len, len)).collect();
            let parts: Vec<_> = lens.iter().zip(&left).map(|(&len, values)| Rows { values, stride: 3, len }).collect();
            for (start, relu) in [(Start::Bias, false), (Start::BiasAndOut, true)] {
                let stride = columns + 2;
                let before = values(rows * stride, 5);
                let mut out = before.clone();
                packed.multiply(&parts, rows, &mut out, stride, start, relu);
                for i in 0..rows {
                    for j in 0..stride {
                        let want = if j < columns {
                            let mut sum = bias[j] + if start == Start::Bias { 0.0 } else { before[i * stride + j] };
                            let mut k = 0;
                            for part in &parts {
                                for x in &part.values[3 * i..][..part.len] {
                                    sum += x * weights[k * columns + j];
                                    k += 1;
                                }
                            }
                            if relu { sum.max(0.0) } else { sum }
                        } else {
                            before[i * stride + j]
                        };
                        assert_eq!(out[i * stride + j], want, "{rows} x {lens:?} x {columns} at {i}, {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn panels_can_be_multiplied_apart() {
        let (weights, bias) = (values(20 * 70, 1), values(70, 2));
        let packed = Weights::new(&weights, &bias);
        let left = values(9 * 20, 3);
        let parts = [Rows { values: &left, stride: 20, len: 20 }];
        let mut whole = vec![0.0; 9 * 70];
        packed.multiply(&parts, 9, &mut whole, 70, Start::Bias, false);
        for panels in [0..1, 1..3] {
            let columns = packed.columns_of(&panels);
            let mut part = vec![0.0; 9 * columns.len()];
            packed.multiply_panels(panels, &parts, 9, &mut part, columns.len(), Start::Bias, false);
            for (whole, part) in whole.chunks(70).zip(part.chunks(columns.len())) {
                assert_eq!(whole[columns.clone()], *part);
            }
        }
    }
}
