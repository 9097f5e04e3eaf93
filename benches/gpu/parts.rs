// SPDX-License-Identifier: MPL-2.0

//! A steady window, part by part.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use gstflashvsr::backend::cuda::driver::Driver;
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::backend::plan::PlanBackend;
use gstflashvsr::backend::{Backend, ColorFix, Grid, Size};
use gstflashvsr::model::{Cancel, Config, DecoderState, DitParams, DitState, LqState, Network};

use crate::common::uniform;
use crate::kernels::Limits;
use crate::{Span, network};

/// Pixels of the size to which the sparse ratio of 2 refers.
const REFERENCE_AREA: f64 = 768.0 * 1280.0;
/// Latent frames of a steady window.
const LATENTS: usize = 2;
/// Windows after which the cache has its steady length.
const WARM_UP: usize = 4;

/// What is timed, in the order in which it happens.
const PARTS: [&str; 4] = ["LQ projection", "DiT", "decoder", "colour fix"];

/// The tokens of a steady window of frames of this size, and how much of the past they attend to.
pub fn steady(size: Size) -> Result<(Grid, DitParams)> {
    let grid = Grid::new(LATENTS, size);
    let ratio = 2.0 * REFERENCE_AREA / (size.width * size.height) as f64;
    Ok((grid, DitParams::new(ratio, 3.0, 11, &grid)?))
}

/// A network that sees the same frames again and again.
struct Loop<B: Backend> {
    backend: B,
    network: Arc<Network<B>>,
    grid: Grid,
    params: DitParams,
    pictures: Vec<B::Tensor>,
    lq: LqState<B>,
    dit: DitState<B>,
    decoder: DecoderState<B>,
    windows: u64,
}

impl<B: Backend> Loop<B> {
    fn new(backend: B, network: Arc<Network<B>>, size: Size) -> Result<Self> {
        let (grid, params) = steady(size)?;
        let picture = |_| backend.picture(&uniform(&[3, size.height, size.width], 2.0, 0.0)?);
        let pictures = (0..4 * LATENTS).map(picture).collect::<gstflashvsr::Result<Vec<_>>>()?;
        let mut lq = LqState::default();
        network.lq.project(&backend, &mut lq, &pictures[..1])?;
        Ok(Self {
            backend,
            network,
            grid,
            params,
            pictures,
            lq,
            dit: DitState::default(),
            decoder: DecoderState::default(),
            windows: 0,
        })
    }

    /// One window; `done` is called after each part.
    fn window(&mut self, mut done: impl FnMut(&B, usize) -> Result<()>) -> Result<()> {
        let Self { backend, network, grid, params, pictures, lq, dit, decoder, windows } = self;
        let mut rows = Vec::with_capacity(LATENTS);
        for four in pictures.chunks_exact(4) {
            rows.push(network.lq.project(&*backend, lq, four)?.context("no latent frame came out")?);
        }
        done(backend, 0)?;
        let (noise, cancel) = (backend.noise(0, *windows, *grid)?, Cancel::default());
        let first = *windows * LATENTS as u64;
        let latents = network.dit.forward(&*backend, dit, &noise, rows, *grid, first, params, &cancel, &mut ())?;
        done(backend, 1)?;
        let mut frames = Vec::with_capacity(4 * LATENTS);
        for (latent, cond) in latents.iter().zip(pictures.chunks_exact(4)) {
            let cond = std::array::from_fn(|i| &cond[i]);
            frames.extend(network.decoder.decode(&*backend, decoder, cond, latent, &cancel)?);
        }
        done(backend, 2)?;
        for (hq, lq) in frames.iter().zip(pictures.iter()) {
            backend.color_fix(hq, lq, ColorFix::Adain)?;
        }
        *windows += 1;
        done(backend, 3)
    }
}

impl<D: Driver> Loop<CudaBackend<D>> {
    /// A network on a device, whose cache has its steady length.
    fn warm(driver: &Arc<D>, network: &Arc<Network<CudaBackend<D>>>, precision: Precision, size: Size) -> Result<Self> {
        let mut warm = Self::new(CudaBackend::new(driver.clone(), precision)?, network.clone(), size)?;
        for _ in 0..WARM_UP {
            warm.window(|_, _| Ok(()))?;
        }
        warm.backend.wait()?;
        Ok(warm)
    }
}

/// Runs a single steady window while `profile` has a profiler look on.
pub fn profiled<D: Driver>(
    driver: &Arc<D>,
    network: &Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    size: Size,
    profile: impl Fn(bool) -> Result<()>,
) -> Result<()> {
    let mut warm = Loop::warm(driver, network, precision, size)?;
    profile(true)?;
    warm.window(|_, _| Ok(()))?;
    warm.backend.wait()?;
    profile(false)
}

/// Floating-point operations of each part.
fn work(config: &Config, size: Size) -> Result<[u64; PARTS.len()]> {
    let backend = PlanBackend::default();
    let ledger = backend.ledger().clone();
    let network = Arc::new(network(&backend, config)?);
    let mut planned = Loop::new(backend, network, size)?;
    for _ in 0..WARM_UP {
        planned.window(|_, _| Ok(()))?;
    }
    let mut work = [0; PARTS.len()];
    ledger.restart();
    planned.window(|_, part| {
        work[part] = ledger.flops();
        ledger.restart();
        Ok(())
    })?;
    Ok(work)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints the table of a steady window.
pub fn report<D: Driver>(
    driver: &Arc<D>,
    network: &Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    size: Size,
    span: Span,
    limits: Limits,
) -> Result<()> {
    let work = work(&network.config, size)?;
    let mut timed = Loop::warm(driver, network, precision, size)?;
    let mut seconds = [const { Vec::new() }; PARTS.len()];
    let begin = Instant::now();
    let mut start = begin;
    while span.goes_on(seconds[0].len(), begin) {
        timed.window(|backend, part| {
            backend.wait()?;
            seconds[part].push(start.elapsed().as_secs_f64());
            start = Instant::now();
            Ok(())
        })?;
    }
    // The floor is the time of the same operations at the device's limit.
    println!("\n{} steady windows, each part alone:\n", seconds[0].len());
    println!("| part | ms per window | TFLOP | TFLOP/s | share of the floor |\n|---|---|---|---|---|");
    let row = |name: &str, seconds: f64, work: u64| {
        let tera = work as f64 / 1e12;
        let share = work as f64 / limits.flops / seconds;
        println!("| {name} | {:.2} | {tera:.2} | {:.0} | {:.0} % |", seconds * 1e3, tera / seconds, share * 100.0);
    };
    let medians = seconds.each_mut().map(|seconds| median(seconds));
    for ((name, seconds), work) in PARTS.iter().zip(medians).zip(work) {
        row(name, seconds, work);
    }
    row("sum", medians.iter().sum(), work.iter().sum());
    Ok(())
}
