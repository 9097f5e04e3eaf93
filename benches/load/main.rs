// SPDX-License-Identifier: MPL-2.0

//! How long a model takes to load and what memory of the host that takes, on a checkpoint of the real size made of random
//! numbers. Needs no GPU: the device takes memory and does nothing, but what is uploaded goes through staging memory.
//!
//! ```sh
//! cargo bench --bench load            # as for a GPU
//! cargo bench --bench load -- --cpu   # for the CPU; takes 8 GB of memory
//! ```

mod checkpoint;
#[path = "../gpu/dry.rs"]
#[allow(dead_code, reason = "the counts of launches are for another benchmark")]
mod dry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;
use gstflashvsr::backend::cpu::CpuBackend;
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Config, Loading, Network, Version};

/// Time and memory of loading a model
#[derive(Parser)]
struct Args {
    /// Where the checkpoint is, or is written
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/random-checkpoint"))]
    dir: PathBuf,

    /// How many times
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// For the CPU, in f32
    #[arg(long)]
    cpu: bool,

    /// Ignored: what cargo tells every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// A line of what Linux tells of this process, in bytes.
fn status(name: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status").context("this benchmark needs Linux")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes: u64 = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no such line")?.parse()?;
    Ok(kibibytes * 1024)
}

fn main() -> Result<()> {
    let args = Args::parse();
    checkpoint::write(&args.dir, &Config::FLASHVSR_V1_1)?;
    for round in 1..=args.rounds {
        // Counting of the peak starts anew (proc(5), clear_refs).
        std::fs::write("/proc/self/clear_refs", "5").context("the peak of memory cannot be reset")?;
        let before = status("VmRSS")?;
        let start = Instant::now();
        let checkpoint = Checkpoint::open(&args.dir)?;
        let opened = start.elapsed();
        let kept: Box<dyn std::any::Any> = if args.cpu {
            let network = Network::load(&CpuBackend::new(0)?, checkpoint, Version::default(), &Loading::default())?;
            Box::new(network)
        } else {
            let backend = CudaBackend::new(Arc::new(dry::Dry::default()), Precision::Bf16)?;
            let network = Network::load(&backend, checkpoint, Version::default(), &Loading::default())?;
            backend.wait()?;
            Box::new(network)
        };
        let took = start.elapsed();
        println!(
            "round {round}: {:.2} s, of which headers {:.3} s; at most {:.0} MB of memory more than before",
            took.as_secs_f64(),
            opened.as_secs_f64(),
            status("VmHWM")?.saturating_sub(before) as f64 / 1e6
        );
        drop(kept);
    }
    Ok(())
}
