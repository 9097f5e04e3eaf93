// SPDX-License-Identifier: MPL-2.0

//! Kernels one by one, at the sizes of a steady window, beside what the device can do: the rate of a large square product, and
//! the rate at which two large pictures are added.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::Storage;
use gstflashvsr::backend::cuda::driver::Driver;
use gstflashvsr::backend::cuda::{CudaBackend, CudaTensor, Precision};
use gstflashvsr::backend::{
    Backend, ColorFix, DraftMask, Epilogue, Grid, HEAD_DIM, Parameter, Rope, Size, WINDOW_TOKENS,
};
use gstflashvsr::model::Config;
use gstflashvsr::model::checkpoint::Weights;

use crate::common::{RandomWeights, uniform};
use crate::parts::steady;

/// Frame pairs of keys that a steady window attends to.
const FRAME_PAIRS: usize = 4;
/// Side of the square product, if the model is of the real size.
const SQUARE: usize = 8192;
/// Calls between two looks at the clock, and how often that is done; the best counts.
const CALLS: u32 = 10;
const ROUNDS: usize = 3;

/// What the device can do at most, as far as we can tell.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Floating-point operations a second, of a large square product.
    pub flops: f64,
    /// Bytes a second, read and written by the sum of two pictures.
    pub bytes: f64,
}

/// Times operations, and prints a line for each.
struct Bench<'a, D: Driver> {
    backend: &'a CudaBackend<D>,
    limits: Limits,
    lines: Cell<usize>,
    /// Random rows on the device, by their number and length.
    rows: RefCell<BTreeMap<(usize, usize), CudaTensor>>,
}

/// Seconds of one call.
fn seconds<D: Driver, T>(backend: &CudaBackend<D>, call: impl Fn() -> gstflashvsr::Result<T>) -> Result<f64> {
    let mut best = f64::INFINITY;
    call()?;
    for _ in 0..ROUNDS {
        backend.wait()?;
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        backend.wait()?;
        best = best.min(start.elapsed().as_secs_f64() / f64::from(CALLS));
    }
    Ok(best)
}

fn random_rows<D: Driver>(backend: &CudaBackend<D>, rows: usize, cols: usize) -> Result<CudaTensor> {
    let tensor = uniform(&[rows, cols], 2.0, 0.0)?;
    let (storage, _) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("random values that are not on the CPU") };
    Ok(backend.rows(storage.as_slice()?, rows, cols)?)
}

fn random_map<D: Driver>(backend: &CudaBackend<D>, height: usize, width: usize, channels: usize) -> Result<CudaTensor> {
    Ok(backend.map(&uniform(&[height, width, channels], 2.0, 0.0)?)?)
}

/// The weights that a layer of this shape has in the network of random weights.
fn weights(shape: &[usize]) -> gstflashvsr::Result<Parameter<'static>> {
    RandomWeights.parameter("", shape)
}

/// Measures what the device can do, and prints it.
pub fn limits<D: Driver>(driver: &Arc<D>, config: &Config, precision: Precision, size: Size) -> Result<Limits> {
    let backend = &CudaBackend::new(driver.clone(), precision)?;
    let side = if config.dim < HEAD_DIM * 4 { 4 * HEAD_DIM } else { SQUARE };
    let layer = backend.prepare_linear(weights(&[side, side])?, None, None)?;
    let x = random_rows(backend, side, side)?;
    let product = seconds(backend, || backend.linear(&x, &layer, Epilogue::None))?;
    let picture = || -> Result<CudaTensor> { Ok(backend.picture(&uniform(&[3, size.height, size.width], 2.0, 0.0)?)?) };
    let (a, b) = (picture()?, picture()?);
    let sum = seconds(backend, || backend.add(&a, &b))?;
    let bytes = 3 * 3 * size.height * size.width * size_of::<f32>();
    let limits = Limits { flops: 2.0 * (side as f64).powi(3) / product, bytes: bytes as f64 / sum };
    println!(
        "limits as measured: {:.0} TFLOP/s in a square product, {:.0} GB/s in a sum of pictures",
        limits.flops / 1e12,
        limits.bytes / 1e9
    );
    Ok(limits)
}

impl<D: Driver> Bench<'_, D> {
    /// An operation of so many floating-point operations.
    fn computes<T>(&self, name: &str, flops: usize, call: impl Fn() -> gstflashvsr::Result<T>) -> Result<()> {
        let rate = flops as f64 / seconds(self.backend, &call)?;
        self.line(name, flops as f64 / rate, format!("{:.0} TFLOP/s", rate / 1e12), rate / self.limits.flops);
        Ok(())
    }

    /// An operation that cannot do without reading and writing so many bytes.
    fn moves<T>(&self, name: &str, bytes: usize, call: impl Fn() -> gstflashvsr::Result<T>) -> Result<()> {
        let rate = bytes as f64 / seconds(self.backend, &call)?;
        self.line(name, bytes as f64 / rate, format!("{:.0} GB/s", rate / 1e9), rate / self.limits.bytes);
        Ok(())
    }

    fn line(&self, name: &str, seconds: f64, rate: String, share: f64) {
        if self.lines.replace(self.lines.get() + 1) == 0 {
            println!("\n| kernel | ms | rate | share of the limit |\n|---|---|---|---|");
        }
        println!("| {name} | {:.3} | {rate} | {:.0} % |", seconds * 1e3, share * 100.0);
    }

    /// Random rows, which other measurements may use too.
    fn random_rows(&self, rows: usize, cols: usize) -> Result<CudaTensor> {
        let mut known = self.rows.borrow_mut();
        Ok(match known.entry((rows, cols)) {
            Entry::Occupied(tensor) => tensor.get().clone(),
            Entry::Vacant(place) => place.insert(random_rows(self.backend, rows, cols)?).clone(),
        })
    }

    fn layers(&self, config: &Config, tokens: usize) -> Result<()> {
        let &Config { dim, ffn, .. } = config;
        let backend = self.backend;
        let vector = |len| uniform(&[len], 0.2, 1.0);
        for (name, inputs, outputs, gated) in [
            ("linear: queries, keys, values", dim, 3 * dim, false),
            ("linear: attention's result, gated", dim, dim, true),
            ("linear: cross attention's queries", dim, dim, false),
            ("linear: into the feed-forward, GELU", dim, ffn, false),
            ("linear: out of the feed-forward, gated", ffn, dim, true),
        ] {
            let (bias, gate) = (vector(outputs)?, vector(outputs)?);
            let layer = backend.prepare_linear(weights(&[outputs, inputs])?, Some(&bias), gated.then_some(&gate))?;
            // In memory of its own, as in the network.
            let residual = random_rows(backend, tokens, outputs)?;
            let x = self.random_rows(tokens, inputs)?;
            self.computes(name, 2 * tokens * inputs * outputs, || {
                let epilogue = match (gated, outputs == ffn) {
                    (true, _) => Epilogue::Add(&residual),
                    (false, true) => Epilogue::Gelu,
                    (false, false) => Epilogue::None,
                };
                backend.linear(&x, &layer, epilogue)
            })?;
        }
        Ok(())
    }

    fn attention(&self, config: &Config, grid: Grid, mask: &DraftMask, bytes: usize) -> Result<()> {
        let backend = self.backend;
        let (dim, tokens) = (config.dim, grid.tokens());
        let qkv = self.random_rows(tokens, 3 * dim)?;
        let norm = backend.vector(&uniform(&[dim], 0.2, 1.0)?)?;
        let rope = backend.rope(Rope::new(0, grid.frames, grid.rows, grid.cols))?;
        let rotated = || backend.qk_norm_rope(&qkv, &norm, &norm, &rope, grid);
        self.moves("rows: norm and RoPE of queries and keys", 6 * tokens * dim * bytes, rotated)?;
        let own = rotated()?;
        let groups: Vec<_> = own.groups.iter().cycle().take(FRAME_PAIRS).collect();
        let means: Vec<_> = groups.iter().map(|group| &group.k_mean).collect();
        let draft = || backend.draft_mask(&own.q_mean, &means, mask);
        let lists = draft()?;
        let pairs = backend.mask_to_host(&lists)?.to_dtype(candle_core::DType::F32)?.sum_all()?.to_scalar::<f32>()?;
        // Two products of 128 queries, 128 keys and a head's channels for each pair of windows.
        let flops = 4 * WINDOW_TOKENS * WINDOW_TOKENS * HEAD_DIM * pairs as usize;
        self.computes("block-sparse attention", flops, || backend.block_sparse_attention(&own.q, &groups, &lists))?;
        let prompt = config.prompt_tokens;
        let [k, v] = [random_rows(backend, prompt, dim)?, random_rows(backend, prompt, dim)?];
        let q = self.random_rows(tokens, dim)?;
        let flops = 4 * tokens * prompt * dim;
        self.computes("cross attention", flops, || backend.cross_attention(&q, &k, &v))
    }

    fn rows(&self, config: &Config, tokens: usize, bytes: usize) -> Result<()> {
        let (backend, dim) = (self.backend, config.dim);
        let x = self.random_rows(tokens, dim)?;
        let vector = backend.vector(&uniform(&[dim], 0.2, 1.0)?)?;
        self.moves("rows: layer norm, modulated", 2 * tokens * dim * bytes, || {
            backend.layer_norm(&x, &vector, &vector)
        })?;
        self.moves("rows: RMS norm", 2 * tokens * dim * bytes, || backend.rms_norm(&x, &vector))
    }

    fn convolutions(&self, config: &Config, Size { width, height }: Size) -> Result<()> {
        let backend = self.backend;
        let [h1, h2] = config.lq_hidden;
        let (rows, cols) = (height / 16, width / 16);
        for (name, inputs, outputs, steps) in [
            ("convolution: first of the LQ projection", 768, h1, 2),
            ("convolution: second of the LQ projection", h1, h2, 1),
        ] {
            let conv =
                backend.prepare_conv3d(weights(&[outputs, inputs, 4, 3, 3])?, &uniform(&[outputs], 0.2, 0.0)?)?;
            // Each step of the result takes two maps more, and the first takes four.
            let maps =
                (0..2 + 2 * steps).map(|_| random_map(backend, rows, cols, inputs)).collect::<Result<Vec<_>>>()?;
            let flops = 2 * rows * cols * 36 * inputs * outputs * steps;
            self.computes(name, flops, || backend.causal_conv3d(&maps, &conv))?;
        }
        for (stage, channels) in config.decoder[..3].iter().copied().enumerate() {
            let (rows, cols) = (height >> (3 - stage), width >> (3 - stage));
            let conv = backend.prepare_conv2d(weights(&[channels, 2 * channels, 3, 3])?, None, 2)?;
            let (x, past) = (random_map(backend, rows, cols, channels)?, random_map(backend, rows, cols, channels)?);
            let flops = 2 * rows * cols * 9 * 2 * channels * channels;
            self.computes(&format!("convolution: decoder, stage {}", stage + 1), flops, || {
                backend.conv2d(&x, Some(&past), &conv, None, true)
            })?;
        }
        Ok(())
    }

    fn pictures(&self, Size { width, height }: Size) -> Result<()> {
        let backend = self.backend;
        let picture = || -> Result<CudaTensor> { Ok(backend.picture(&uniform(&[3, height, width], 2.0, 0.0)?)?) };
        let (hq, lq) = (picture()?, picture()?);
        // Both are read for their moments, one again, and the result is written.
        let bytes = 4 * 3 * height * width * size_of::<f32>();
        self.moves("picture: AdaIN", bytes, || backend.color_fix(&hq, &lq, ColorFix::Adain))
    }
}

/// Prints the table of kernels.
pub fn report<D: Driver>(
    driver: &Arc<D>,
    config: &Config,
    precision: Precision,
    size: Size,
    limits: Limits,
) -> Result<()> {
    let backend = &CudaBackend::new(driver.clone(), precision)?;
    let (grid, params) = steady(size)?;
    let bench = Bench { backend, limits, lines: Cell::new(0), rows: RefCell::default() };
    bench.layers(config, grid.tokens())?;
    bench.attention(config, grid, &params.draft_mask(&grid), precision.bytes())?;
    bench.rows(config, grid.tokens(), precision.bytes())?;
    bench.convolutions(config, size)?;
    bench.pictures(size)
}
