// SPDX-License-Identifier: MPL-2.0

//! What a run will take, told before it: memory by the model's own plan; time on a CPU by the operations of that plan and a
//! short measurement of how fast they go.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use gst::glib;
use gst::prelude::*;
use gstflashvsr::model::Config;
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::upscaler::{Geometry, Options, Size, SizePolicy, Startup, plan};
use gstreamer as gst;
use gstreamer_video as gst_video;

/// Frames of a steady window.
const WINDOW_FRAMES: f64 = 8.0;
/// Bytes of a number in the plan.
const PLANNED: u64 = 4;
/// Time spent on measuring.
const MEASURING: Duration = Duration::from_millis(100);

/// What a stream takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// Where it runs ("CPU, 8 threads").
    pub device: String,
    /// Bytes of the weights and of the stream, about.
    pub memory: u64,
    /// Seconds for a frame by its multiplications alone, at the speed of this moment; none on a GPU.
    pub least_seconds: Option<f64>,
}

/// The estimate of a job, from its second frame on.
pub type Slot = Arc<OnceLock<Estimate>>;

/// Estimates when the second frame comes to `upscaler`, which runs the model in `model`: the model is loaded by then, and does
/// not compute yet.
pub fn on_second_frame(upscaler: &gst::Element, model: &Path) -> Slot {
    let slot = Slot::default();
    let Some(sink) = upscaler.static_pad("sink") else { return slot };
    let (filled, upscaler, model) = (slot.clone(), upscaler.downgrade(), model.to_owned());
    let first = std::sync::atomic::AtomicBool::new(true);
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        if first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            return gst::PadProbeReturn::Ok;
        }
        // What the model refuses it will say itself.
        if let Some(Ok(estimate)) = upscaler.upgrade().map(|upscaler| estimate(&upscaler, &model)) {
            let _ = filled.set(estimate);
        }
        gst::PadProbeReturn::Remove
    });
    slot
}

fn estimate(upscaler: &gst::Element, model: &Path) -> Result<Estimate> {
    let config = Config::from_checkpoint(&Checkpoint::open(model)?)?;
    let geometry = Geometry::new(size(upscaler, "sink")?, size(upscaler, "src")?, SizePolicy::Pad)?;
    let plan = plan(&config, geometry, options(upscaler))?;
    let stats = upscaler.property::<gst::Structure>("stats");
    let device = stats.get::<Option<String>>("device")?.context("no device yet")?;
    let bytes = match stats.get::<Option<String>>("precision")?.as_deref() {
        Some("bf16" | "f16") => 2,
        _ => PLANNED,
    };
    let least_seconds = match device.starts_with("CPU") {
        true => Some(plan.steady_flops as f64 / WINDOW_FRAMES / products_per_second(upscaler.property("threads"))?),
        false => None,
    };
    Ok(Estimate { device, memory: plan.total_bytes() / PLANNED * bytes, least_seconds })
}

fn size(upscaler: &gst::Element, pad: &str) -> Result<Size> {
    let caps = upscaler.static_pad(pad).and_then(|pad| pad.current_caps()).context("no size yet")?;
    let info = gst_video::VideoInfo::from_caps(&caps)?;
    Ok(Size::new(info.width() as usize, info.height() as usize))
}

/// What the plan depends on.
fn options(upscaler: &gst::Element) -> Options {
    let startup = upscaler.property_value("startup");
    let low_latency = glib::EnumValue::from_value(&startup).is_some_and(|(_, value)| value.nick() == "low-latency");
    Options {
        startup: if low_latency { Startup::LowLatency } else { Startup::Reference },
        sparse_ratio: upscaler.property("sparse-ratio"),
        kv_ratio: upscaler.property("kv-ratio"),
        local_range: upscaler.property::<u32>("local-range") as usize,
        ..Options::default()
    }
}

/// Floating-point operations that a matrix product of the model's kind does in a second on `threads` threads; 0 stands for one
/// per core.
fn products_per_second(threads: u32) -> Result<f64> {
    const ROWS: usize = 512;
    const WIDTH: usize = 1536;
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads as usize).build()?;
    pool.install(|| {
        let left = Tensor::ones((ROWS, WIDTH), DType::F32, &Device::Cpu)?;
        let right = Tensor::ones((WIDTH, WIDTH), DType::F32, &Device::Cpu)?;
        // The first one wakes the threads.
        left.matmul(&right)?;
        let (began, mut products) = (Instant::now(), 0);
        while began.elapsed() < MEASURING {
            left.matmul(&right)?;
            products += 1;
        }
        let operations = 2 * products * ROWS * WIDTH * WIDTH;
        Ok(operations as f64 / began.elapsed().as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline with the tiny model that takes `frames` frames, and what was estimated.
    fn estimated(frames: u32) -> Option<Estimate> {
        gst::init().unwrap();
        gstflashvsr::register_static().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        let description = format!(
            "videotestsrc num-buffers={frames} ! video/x-raw,width=64,height=64 \
             ! flashvsr name=upscaler device=cpu startup=low-latency ! fakesink"
        );
        let pipeline = gst::parse::launch(&description).unwrap().downcast::<gst::Bin>().unwrap();
        let upscaler = pipeline.by_name("upscaler").unwrap();
        upscaler.set_property("model", &model);
        let slot = on_second_frame(&upscaler, &model);
        pipeline.set_state(gst::State::Playing).unwrap();
        let ends = [gst::MessageType::Eos, gst::MessageType::Error];
        let end = pipeline.bus().unwrap().timed_pop_filtered(gst::ClockTime::from_seconds(60), &ends).unwrap();
        assert_eq!(end.type_(), gst::MessageType::Eos);
        pipeline.set_state(gst::State::Null).unwrap();
        slot.get().cloned()
    }

    #[test]
    fn a_run_on_the_cpu_is_estimated_from_its_second_frame_on() {
        let Estimate { device, memory, least_seconds } = estimated(2).unwrap();
        assert!(device.starts_with("CPU, "), "{device}");
        // The frames of the first window alone, in f32, and a model of some megabytes.
        assert!((9 * 128 * 128 * 3 * 4..1 << 30).contains(&memory), "{memory}");
        assert!(least_seconds.is_some_and(|seconds| (1e-6..60.0).contains(&seconds)), "{least_seconds:?}");
        assert_eq!(estimated(1), None);
    }
}
