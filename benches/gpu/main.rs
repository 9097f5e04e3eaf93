// SPDX-License-Identifier: MPL-2.0

//! Times the CUDA backend at the sizes of the real model, with random weights: operations one by one, a steady window part by
//! part, and a whole stream with its device memory and the time until the first frame. `gpu.sh` runs it beside its peer.
//!
//! ```sh
//! cargo bench --bench gpu -- --size 1408x768
//! ```

#[path = "../common/mod.rs"]
mod common;
mod dry;
mod kernels;
mod parts;
mod stream;

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use cudarc::driver::{profiler_start, profiler_stop};
use gstflashvsr::backend::Size;
use gstflashvsr::backend::cuda::driver::Driver;
use gstflashvsr::backend::cuda::{CudaBackend, Precision, nvidia::Nvidia};
use gstflashvsr::backend::{Backend, HostTensor};
use gstflashvsr::model::{Config, Network, Version};
use gstflashvsr::upscaler::{Geometry, SizePolicy};

use common::{RandomWeights, uniform};

/// A model whose windows take seconds on an emulated GPU: to try this program out.
const TINY: Config = Config {
    dim: 128,
    heads: 1,
    ffn: 256,
    layers: 2,
    text_dim: 16,
    freq_dim: 256,
    prompt_tokens: 4,
    lq_hidden: [48, 64],
    decoder: [64, 32, 16, 16],
    residual: false,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Bf16,
    F16,
    F32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kernels {
    /// Ours that are best for this GPU
    Own,
    /// cuBLASLt's where it is there and was faster when the weights were loaded, otherwise ours
    Library,
    /// Ours that run on every generation
    Common,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Operations one by one; loads no weights
    Kernels,
    /// A steady window part by part
    Parts,
    /// A whole stream
    Stream,
    /// Measures nothing: one steady window for a profiler that waits for `cuProfilerStart`
    Window,
}

impl From<Format> for Precision {
    fn from(format: Format) -> Self {
        match format {
            Format::Bf16 => Precision::Bf16,
            Format::F16 => Precision::F16,
            Format::F32 => Precision::F32,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Sides(Size);

impl FromStr for Sides {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (width, height) = text.split_once('x').context("WIDTHxHEIGHT")?;
        let size = Size::new(width.parse()?, height.parse()?);
        ensure!(size.width >= 4 && size.height >= 4, "sides of 4 pixels or more");
        Ok(Self(size))
    }
}

/// How long something is measured.
#[derive(Debug, Clone, Copy)]
struct Span {
    windows: usize,
    time: Duration,
}

impl Span {
    /// Least number of windows.
    const LEAST: usize = 3;

    /// Whether another window is measured after `done`, of which the first began at `start`.
    fn goes_on(self, done: usize, start: Instant) -> bool {
        done < self.windows && (done < Self::LEAST || start.elapsed() < self.time)
    }
}

#[derive(Debug, Parser)]
struct Args {
    /// Size of the output frames; the input has a quarter of their sides
    #[arg(long, default_value = "1408x768")]
    size: Sides,
    /// Number of the GPU
    #[arg(long, default_value_t = 0)]
    gpu: usize,
    #[arg(long, value_enum, default_value_t = Format::Bf16)]
    precision: Format,
    /// Only this, which may be given several times; by default all but `window`
    #[arg(long, value_enum)]
    only: Vec<Section>,
    /// Steady windows that are timed, at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    windows: u16,
    /// Seconds after which no further window is timed, once there are three
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Which kernels run
    #[arg(long, value_enum, default_value_t = Kernels::Own)]
    kernels: Kernels,
    /// With each kernel launched by itself
    #[arg(long)]
    no_graphs: bool,
    /// A model of 1/250 of the size
    #[arg(long)]
    tiny: bool,
    /// Without a device: tells how much memory a stream takes and what it launches. With `--only` that is run on a device that
    /// does nothing: its times are those of the host
    #[arg(long)]
    dry: bool,
    /// On the emulated GPU, which says nothing about speed
    #[cfg(feature = "emulator")]
    #[arg(long)]
    emulator: bool,
    /// What cargo passes to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    fn config(&self) -> &'static Config {
        if self.tiny { &TINY } else { &Config::FLASHVSR_V1_1 }
    }
}

/// A network of random weights.
fn network<B: Backend>(backend: &B, config: &Config) -> gstflashvsr::Result<Network<B>> {
    let prompt: HostTensor = uniform(&[1, config.prompt_tokens, config.text_dim], 1.0, 0.0)?;
    Network::from_weights(backend, config, Version::V1_1, [&RandomWeights; 3], &prompt)
}

/// A network on a device, and the bytes that its weights take there.
fn load<D: Driver>(driver: &Arc<D>, args: &Args) -> Result<(Arc<Network<CudaBackend<D>>>, u64)> {
    let (free, _) = driver.bytes()?;
    let loader = CudaBackend::new(driver.clone(), args.precision.into())?;
    let start = Instant::now();
    let network = Arc::new(network(&loader, args.config())?);
    loader.wait()?;
    println!("random weights drawn, packed and uploaded in {:.1} s", start.elapsed().as_secs_f64());
    if let Some(report) = loader.library_report() {
        println!("{report}");
    }
    Ok((network, free - driver.bytes()?.0))
}

fn geometry(Sides(output): Sides) -> Result<Geometry> {
    Ok(Geometry::new(Size::new(output.width / 4, output.height / 4), output, SizePolicy::Pad)?)
}

/// Runs what is asked for; `profile` starts and stops a profiler.
fn run<D: Driver>(driver: Arc<D>, args: &Args, profile: impl Fn(bool) -> Result<()>) -> Result<()> {
    let (precision, Sides(size), geometry) = (args.precision.into(), args.size, geometry(args.size)?);
    let (model, config) = (geometry.model, args.config());
    let span = Span { windows: args.windows.into(), time: Duration::from_secs(args.seconds) };
    let wants = |section| match args.only[..] {
        [] => section != Section::Window,
        ref only => only.contains(&section),
    };
    println!("{}, {size} (the model's frames: {model}), {precision}", driver.name());
    let mut limits = None;
    if wants(Section::Kernels) || wants(Section::Parts) {
        limits = Some(kernels::limits(&driver, config, precision, model).context("the limits")?);
    }
    if let Some(limits) = limits.filter(|_| wants(Section::Kernels)) {
        kernels::report(&driver, config, precision, model, limits)?;
    }
    if args.only == [Section::Kernels] {
        return Ok(());
    }
    let (network, weights) = load(&driver, args)?;
    if let Some(limits) = limits.filter(|_| wants(Section::Parts)) {
        parts::report(&driver, &network, precision, model, span, limits)?;
    }
    if wants(Section::Window) {
        parts::profiled(&driver, &network, precision, model, profile)?;
    }
    if wants(Section::Stream) {
        stream::report(driver, network, precision, geometry, span, weights)?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.dry {
        let driver = Arc::new(dry::Dry::default());
        if !args.only.is_empty() {
            return run(driver, &args, |_| Ok(()));
        }
        let (network, weights) = load(&driver, &args)?;
        return stream::report_needs(driver, network, args.precision.into(), geometry(args.size)?, weights);
    }
    #[cfg(feature = "emulator")]
    if args.emulator {
        return run(Arc::new(gstflashvsr::backend::cuda::emulator::Emulator::default()), &args, |_| Ok(()));
    }
    let gpu = Nvidia::open(args.gpu)?;
    let gpu = match args.kernels {
        Kernels::Own => gpu,
        Kernels::Library => gpu.with_library(),
        Kernels::Common => gpu.with_common_kernels(),
    };
    let gpu = Arc::new(if args.no_graphs { gpu.without_graphs() } else { gpu });
    run(gpu.clone(), &args, |on| {
        if on {
            profiler_start()?
        } else {
            profiler_stop()?
        }
        Ok(())
    })?;
    if let Some(notice) = gpu.notice() {
        println!("\n{notice}");
    }
    Ok(())
}
