// SPDX-License-Identifier: MPL-2.0

//! A whole stream, from frames in host memory to frames in host memory.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use gstflashvsr::backend::cuda::driver::Driver;
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::model::Network;
use gstflashvsr::upscaler::{Cancel, Frame, FrameMut, Geometry, Options, Samples, SamplesMut, on_cuda};

/// Frames that complete the first window.
const FIRST_WINDOW: usize = 25;
/// Frames of a steady window.
const WINDOW: usize = 8;
/// Windows after which the cache has its steady length.
const WARM_UP: usize = 4;

/// Prints frames per second, the time to the first frame and device memory.
pub fn report<D: Driver>(
    driver: Arc<D>,
    network: Arc<Network<CudaBackend<D>>>,
    precision: Precision,
    geometry: Geometry,
    windows: usize,
    weights: u64,
) -> Result<()> {
    let Geometry { input, output: size, .. } = geometry;
    let before = driver.bytes()?.0;
    let model = on_cuda::model(driver.clone(), network, precision, "a benchmark".into());
    let mut stream = model.stream(geometry, Options::default(), Cancel::default())?;
    let activations = before - driver.bytes()?.0;

    let samples: Vec<u8> = (0..3 * input.width * input.height).map(|i| (i * 7 % 251) as u8).collect();
    let frame =
        Frame { width: input.width, height: input.height, stride: 3 * input.width, samples: Samples::U8(&samples) };
    let mut shown = vec![0; 3 * size.width * size.height];
    let mut pass = |frames: usize| -> Result<usize> {
        let mut out = 0;
        for _ in 0..frames {
            stream.push(&frame)?;
            while stream.ready() > 0 {
                let (width, height) = (size.width, size.height);
                let samples = SamplesMut::U8(&mut shown);
                stream.pop(&mut FrameMut { width, height, stride: 3 * width, samples })?;
                out += 1;
            }
        }
        Ok(out)
    };
    pass(FIRST_WINDOW - 1)?;
    let start = Instant::now();
    pass(1)?;
    let first = start.elapsed();
    pass(WARM_UP * WINDOW)?;
    let start = Instant::now();
    let frames = pass(windows.max(1) * WINDOW)?;
    let fps = frames as f64 / start.elapsed().as_secs_f64();
    println!("\n| whole stream | |\n|---|---|");
    println!("| frames per second, host to host | {fps:.1} |");
    println!("| first window, from its last frame in to all its frames out | {:.0} ms |", first.as_secs_f64() * 1e3);
    println!("| device memory: weights | {:.2} GB |", weights as f64 / 1e9);
    println!("| device memory: stream | {:.2} GB |", activations as f64 / 1e9);
    Ok(())
}
