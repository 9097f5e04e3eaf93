// SPDX-License-Identifier: MPL-2.0

//! Times the CPU backend on four cases, the same as those of `pytorch_peer.py`, and prints one line of JSON for each.
//! `compare.py` runs both sides in turns. A harness of its own and not a statistical one, because only a process that
//! runs one case for a few seconds can take turns with another.
//!
//! ```sh
//! cargo bench --bench cpu -- --case decoder --threads 2
//! ```

#[path = "common/mod.rs"]
mod common;

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use gstflashvsr::backend::{Backend, ColorFix, Grid, Rope, Size, cpu::CpuBackend};
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{
    Cancel, Config, DecoderState, DitBlock, DitParams, Loading, LqProjection, LqState, Network, TcDecoder, Version,
};

use common::{RandomWeights, uniform};

/// Sizes of the real model.
const FULL: Config = Config::FLASHVSR_V1_1;
const SIZE: Size = Size { width: 256, height: 256 };
/// Windows after which the caches have reached their steady length.
const WARM_UP: usize = 4;
/// Least number of measurements.
const MIN_RUNS: usize = 3;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Case {
    /// Full size, one streaming call of 4 frames at 256x256.
    LqProjection,
    /// One full-size block at 256x256: two latent frames, four frame pairs of keys, 512 text tokens.
    DitBlock,
    /// Full size, two latents to 8 frames at 256x256, memory carried.
    Decoder,
    /// The parity model, one steady window at 128x256, from pictures to corrected pictures.
    TinyWindow,
}

#[derive(Debug, Parser)]
struct Args {
    /// Only this case.
    #[arg(long)]
    case: Vec<Case>,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Measure each case for about this long.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// What cargo passes to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Random pictures.
fn pictures<B: Backend>(backend: &B, count: usize, size: Size) -> Result<Vec<B::Tensor>> {
    let picture = || Ok(backend.picture(&uniform(&[3, size.height, size.width], 2.0, 0.0)?)?);
    (0..count).map(|_| picture()).collect()
}

/// Runs `f` for about `time` and gives the seconds of each run.
fn measure(time: Duration, mut f: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    f()?;
    let (mut seconds, start) = (Vec::new(), Instant::now());
    while seconds.len() < MIN_RUNS || start.elapsed() < time {
        let run = Instant::now();
        f()?;
        seconds.push(run.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn lq_projection<B: Backend>(backend: &B, time: Duration) -> Result<Vec<f64>> {
    let projection = LqProjection::load(backend, &RandomWeights, &FULL, Version::V1_1)?;
    let (mut state, frames) = (LqState::default(), pictures(backend, 4, SIZE)?);
    projection.project(backend, &mut state, &frames[..1])?;
    measure(time, || {
        projection.project(backend, &mut state, &frames)?.context("no latent frame came out")?;
        Ok(())
    })
}

fn dit_block<B: Backend>(backend: &B, time: Duration) -> Result<Vec<f64>> {
    let rows = |rows: usize| -> Result<B::Tensor> {
        let values = uniform(&[rows * FULL.dim], 3.0, 0.0)?.to_vec1()?;
        Ok(backend.rows(&values, rows, FULL.dim)?)
    };
    let t_mod = uniform(&[1, 6, FULL.dim], 0.7, 0.0)?;
    let block = DitBlock::load(backend, &RandomWeights, "", &t_mod, &rows(FULL.prompt_tokens)?, FULL.dim, FULL.ffn)?;
    let grid = Grid::new(2, SIZE);
    let topk_ratio = 2.0 * (768 * 1280) as f64 / (SIZE.width * SIZE.height) as f64;
    let params = DitParams::new(topk_ratio, 3.0, 11, &grid)?;
    let rope = backend.rope(Rope::new(6, grid.frames, grid.rows, grid.cols))?;
    let (x, mut cache) = (rows(grid.tokens())?, VecDeque::new());
    let mut run = || -> Result<()> {
        block.forward(backend, x.clone(), &mut cache, grid, &rope, &params, 0, &mut ())?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        run()?;
    }
    measure(time, run)
}

fn decoder<B: Backend>(backend: &B, time: Duration) -> Result<Vec<f64>> {
    let decoder = TcDecoder::load(backend, &RandomWeights, &FULL)?;
    let frames = pictures(backend, 4, SIZE)?;
    let cond = [0, 1, 2, 3].map(|i| &frames[i]);
    let latent = backend.map(&uniform(&[SIZE.height / 8, SIZE.width / 8, 16], 3.0, 0.0)?)?;
    let mut state = DecoderState::default();
    measure(time, || {
        for _ in 0..2 {
            decoder.decode(backend, &mut state, cond, &latent, &Cancel::default())?;
        }
        Ok(())
    })
}

fn tiny_window<B: Backend>(backend: &B, time: Duration) -> Result<Vec<f64>> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let network = Network::load(backend, Checkpoint::open(&model)?, Version::V1_1, &Loading::default())?;
    let size = Size { width: 256, height: 128 };
    let grid = Grid::new(2, size);
    let params = DitParams::new(1.5, 3.0, 11, &grid)?;
    let noise = backend.noise(0, 3, grid)?;
    let (frames, cancel) = (pictures(backend, 8, size)?, Cancel::default());
    let (mut lq_state, mut dit_state, mut decoder_state) = Default::default();
    network.lq.project(backend, &mut lq_state, &frames[..1])?;
    let mut run = || -> Result<()> {
        let mut lq = Vec::new();
        for frames in frames.chunks_exact(4) {
            lq.extend(network.lq.project(backend, &mut lq_state, frames)?);
        }
        let latents = network.dit.forward(backend, &mut dit_state, &noise, lq, grid, 10, &params, &cancel, &mut ())?;
        for (latent, cond) in latents.iter().zip(frames.chunks_exact(4)) {
            let refs = [0, 1, 2, 3].map(|i| &cond[i]);
            let decoded = network.decoder.decode(backend, &mut decoder_state, refs, latent, &cancel)?;
            for (hq, lq) in decoded.iter().zip(cond) {
                backend.color_fix(hq, lq, ColorFix::Adain)?;
            }
        }
        Ok(())
    };
    for _ in 0..WARM_UP {
        run()?;
    }
    measure(time, run)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let backend = CpuBackend::new(args.threads)?;
    let time = Duration::from_secs_f64(args.seconds);
    let cases = if args.case.is_empty() { Case::value_variants() } else { &args.case };
    for case in cases {
        let seconds = match case {
            Case::LqProjection => lq_projection(&backend, time),
            Case::DitBlock => dit_block(&backend, time),
            Case::Decoder => decoder(&backend, time),
            Case::TinyWindow => tiny_window(&backend, time),
        }?;
        let name = case.to_possible_value().context("a case without a name")?;
        println!("{}", serde_json::json!({ "case": name.get_name(), "seconds": seconds }));
    }
    Ok(())
}
