// SPDX-License-Identifier: MPL-2.0

//! Times the CUDA backend at the sizes of the real model, with random weights: frames per second of a whole stream, time and
//! rate of each part of a steady window, device memory, and the time until the first frame. `gpu.sh` runs it beside its peer.
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

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
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
    /// Those that are best, and cuBLASLt's where it is there and faster
    Library,
    /// Without cuBLASLt
    Own,
    /// Without cuBLASLt and without those for this GPU's generation alone
    Common,
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
    /// Steady windows that are timed
    #[arg(long, default_value_t = 10)]
    windows: usize,
    /// Which kernels run
    #[arg(long, value_enum, default_value_t = Kernels::Own)]
    kernels: Kernels,
    /// With each kernel launched by itself
    #[arg(long)]
    no_graphs: bool,
    /// A model of 1/250 of the size
    #[arg(long)]
    tiny: bool,
    /// Without a device: tells how much memory a stream takes and what it launches, and measures nothing
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

/// A network of random weights.
fn network<B: Backend>(backend: &B, config: &Config) -> gstflashvsr::Result<Network<B>> {
    let prompt: HostTensor = uniform(&[1, config.prompt_tokens, config.text_dim], 1.0, 0.0)?;
    Network::from_weights(backend, config, Version::V1_1, [&RandomWeights; 3], &prompt)
}

/// A network on a device, and the bytes that its weights take there.
fn load<D: Driver>(driver: &Arc<D>, args: &Args) -> Result<(Arc<Network<CudaBackend<D>>>, u64)> {
    let config = if args.tiny { TINY } else { Config::FLASHVSR_V1_1 };
    let (free, _) = driver.bytes()?;
    let loader = CudaBackend::new(driver.clone(), args.precision.into())?;
    let network = Arc::new(network(&loader, &config)?);
    loader.wait()?;
    if let Some(report) = loader.library_report() {
        println!("{report}");
    }
    Ok((network, free - driver.bytes()?.0))
}

fn geometry(Sides(output): Sides) -> Result<Geometry> {
    Ok(Geometry::new(Size::new(output.width / 4, output.height / 4), output, SizePolicy::Pad)?)
}

fn run<D: Driver>(driver: Arc<D>, args: &Args) -> Result<()> {
    let (network, weights) = load(&driver, args)?;
    let (precision, Sides(size), geometry) = (args.precision.into(), args.size, geometry(args.size)?);
    let model = geometry.model;
    println!(
        "{}, {size} (the model's frames: {model}), {precision}, {} steady windows of 8 frames",
        driver.name(),
        args.windows
    );
    let limits = kernels::report(&driver, &network.config, precision, model)?;
    parts::report(&driver, &network, precision, model, args.windows, limits)?;
    stream::report(driver, network, precision, geometry, args.windows, weights)
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.dry {
        let driver = Arc::new(dry::Dry::default());
        let (network, weights) = load(&driver, &args)?;
        return stream::report_needs(driver, network, args.precision.into(), geometry(args.size)?, weights);
    }
    #[cfg(feature = "emulator")]
    if args.emulator {
        return run(Arc::new(gstflashvsr::backend::cuda::emulator::Emulator::default()), &args);
    }
    let gpu = Nvidia::open(args.gpu)?;
    let gpu = match args.kernels {
        Kernels::Own => gpu,
        Kernels::Library => gpu.with_library(),
        Kernels::Common => gpu.with_common_kernels(),
    };
    let gpu = Arc::new(if args.no_graphs { gpu.without_graphs() } else { gpu });
    run(gpu.clone(), &args)?;
    if let Some(notice) = gpu.notice() {
        println!("\n{notice}");
    }
    Ok(())
}
