// SPDX-License-Identifier: MPL-2.0

//! A whole stream, from frames in host memory to frames in host memory.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use gstflashvsr::backend::Size;
use gstflashvsr::backend::cuda::driver::{Driver, Memory};
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::model::Network;
use gstflashvsr::upscaler::{Cancel, Frame, FrameMut, Geometry, Model, Options, Samples, SamplesMut, Stream, on_cuda};

use crate::Span;
use crate::dry::{Counts, Dry};

/// Frames that complete the first window.
const FIRST_WINDOW: usize = 25;
/// Frames of a steady window.
const WINDOW: usize = 8;
/// Windows after which the cache has its steady length.
const WARM_UP: usize = 4;
/// Windows after which what is held finds the same places again and again.
const SETTLED: usize = 80;

/// A stream and the frames that it is fed and gives.
struct Feed {
    stream: Box<dyn Stream>,
    geometry: Geometry,
    samples: Vec<u8>,
    shown: Vec<u8>,
}

impl Feed {
    fn new(model: Arc<dyn Model>, geometry: Geometry, options: Options) -> Result<Self> {
        let values = |size: Size| 3 * size.width * size.height;
        Ok(Self {
            stream: model.stream(geometry, options, Cancel::default())?,
            geometry,
            samples: (0..values(geometry.input)).map(|i| (i * 7 % 251) as u8).collect(),
            shown: vec![0; values(geometry.output)],
        })
    }

    fn push(&mut self) -> Result<()> {
        let Size { width, height } = self.geometry.input;
        let samples = Samples::U8(&self.samples);
        Ok(self.stream.push(&Frame { width, height, stride: 3 * width, samples })?)
    }

    fn pop(&mut self) -> Result<()> {
        let Size { width, height } = self.geometry.output;
        let samples = SamplesMut::U8(&mut self.shown);
        Ok(self.stream.pop(&mut FrameMut { width, height, stride: 3 * width, samples })?)
    }

    /// Feeds frames, and gives the number of those that came out.
    fn run(&mut self, frames: usize) -> Result<usize> {
        let mut out = 0;
        for _ in 0..frames {
            self.push()?;
            while self.stream.ready() > 0 {
                self.pop()?;
                out += 1;
            }
        }
        Ok(out)
    }
}

/// Prints what a stream on a device that does nothing takes of it.
pub fn report_needs(
    dry: Arc<Dry>,
    network: Arc<Network<CudaBackend<Dry>>>,
    precision: Precision,
    geometry: Geometry,
    weights: u64,
) -> Result<()> {
    let model = on_cuda::model(dry.clone(), network, precision, "a dry run".into());
    let before = dry.bytes()?.0;
    let mut feed = Feed::new(model, geometry, Options { pipelined: true, ..Options::default() })?;
    feed.run(FIRST_WINDOW + WARM_UP * WINDOW)?;
    let stream = before - dry.bytes()?.0;
    feed.run(SETTLED * WINDOW)?;
    dry.take_counts();
    feed.run(WINDOW)?;
    let Counts { kernels, alone, graphs, made, set } = dry.take_counts();
    let all = kernels.values().sum::<u64>();
    println!("\n| what a stream takes | |\n|---|---|");
    println!("| device memory: weights | {:.2} GB |", weights as f64 / 1e9);
    println!("| device memory: a stream | {:.2} GB |", stream as f64 / 1e9);
    println!("| kernels launched in a steady window | {all} |");
    println!("| of these in graphs ({graphs} launched, {made} made) | {} |", all - alone);
    println!("| of these with arguments that are not those of the graph's last run | {set} |");
    for (kernel, times) in kernels {
        println!("| {kernel} | {times} |");
    }
    Ok(())
}

/// Prints frames per second, the time to the first frame and device memory.
pub fn report<D: Driver>(
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    geometry: Geometry,
    span: Span,
    weights: u64,
) -> Result<()> {
    let model = on_cuda::model(driver.clone(), network, precision, "a benchmark".into());
    let mut live = Feed::new(model.clone(), geometry, Options::default())?;
    live.run(FIRST_WINDOW - 1)?;
    let start = Instant::now();
    live.push()?;
    live.pop()?;
    let first = start.elapsed();
    drop(live);

    let before = driver.bytes()?.0;
    // As in a pipeline that is not live.
    let mut feed = Feed::new(model, geometry, Options { pipelined: true, ..Options::default() })?;
    let activations = before - driver.bytes()?.0;
    feed.run(FIRST_WINDOW + WARM_UP * WINDOW)?;
    let (mut frames, mut windows) = (0, 0);
    let start = Instant::now();
    while span.goes_on(windows, start) {
        frames += feed.run(WINDOW)?;
        windows += 1;
    }
    let fps = frames as f64 / start.elapsed().as_secs_f64();
    let growth = (before - activations).saturating_sub(driver.bytes()?.0);
    println!("\n| whole stream | |\n|---|---|");
    println!("| frames per second, host to host, in {windows} windows | {fps:.1} |");
    println!("| first frame out after the 25th in, live | {:.0} ms |", first.as_secs_f64() * 1e3);
    println!("| device memory: weights | {:.2} GB |", weights as f64 / 1e9);
    println!("| device memory: a stream | {:.2} GB |", activations as f64 / 1e9);
    println!("| device memory: what {frames} frames added | {:.2} GB |", growth as f64 / 1e9);
    Ok(())
}
