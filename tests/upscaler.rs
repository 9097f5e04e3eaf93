// SPDX-License-Identifier: MPL-2.0

//! What a stream promises, on the tiny model of the parity set, whose picture is noise.

use std::path::PathBuf;
use std::sync::Arc;

use gstflashvsr::Error;
use gstflashvsr::upscaler::{
    Cancel, ColorFix, Frame, FrameMut, Geometry, Model, ModelSpec, Options, Samples, SamplesMut, Size, SizePolicy,
    Startup, Stream, Version, open, plan, weight_bytes,
};
use proptest::prelude::*;

const INPUT: Size = Size::new(64, 64);

fn spec() -> ModelSpec {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    ModelSpec { path, version: Version::V1_1, device: "auto".into(), precision: None, threads: 1 }
}

fn geometry() -> Geometry {
    Geometry::new(INPUT, Geometry::scaled_size(INPUT, 2.0), SizePolicy::Pad).unwrap()
}

fn model() -> Arc<dyn Model> {
    open(&spec()).unwrap()
}

fn stream(options: Options) -> Box<dyn Stream> {
    model().stream(geometry(), options, Cancel::default()).unwrap()
}

fn low_latency() -> Options {
    Options { startup: Startup::LowLatency, ..Options::default() }
}

/// A picture that differs from frame to frame.
fn input(number: u64) -> Vec<u8> {
    let pixel = |i: usize| (i as u64 * 31 + number * 17 + (i as u64 / 192) * 7) as u8;
    (0..3 * INPUT.width * INPUT.height).map(pixel).collect()
}

fn push(stream: &mut dyn Stream, number: u64) -> Result<(), Error> {
    let samples = input(number);
    stream.push(&Frame {
        width: INPUT.width,
        height: INPUT.height,
        stride: 3 * INPUT.width,
        samples: Samples::U8(&samples),
    })
}

fn pop(stream: &mut dyn Stream) -> Result<Vec<u8>, Error> {
    let Size { width, height } = geometry().output;
    let mut samples = vec![0; 3 * width * height];
    stream.pop(&mut FrameMut { width, height, stride: 3 * width, samples: SamplesMut::U8(&mut samples) })?;
    Ok(samples)
}

fn pop_all(stream: &mut dyn Stream) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while stream.ready() > 0 {
        frames.push(pop(stream).unwrap());
    }
    frames
}

/// All frames that come out for `count` frames that go in.
fn run(stream: &mut dyn Stream, count: u64) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for number in 0..count {
        push(stream, number).unwrap();
        frames.extend(pop_all(stream));
    }
    stream.finish().unwrap();
    frames.extend(pop_all(stream));
    frames
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn n_frames_in_n_frames_out(count in 0u64..=70, low in any::<bool>()) {
        let options = if low { low_latency() } else { Options::default() };
        prop_assert_eq!(run(&mut *stream(options), count).len() as u64, count);
    }
}

#[test]
fn low_latency_gives_its_first_frames_after_nine() {
    let mut stream = stream(low_latency());
    for number in 0..8 {
        push(&mut *stream, number).unwrap();
        assert_eq!(stream.ready(), 0);
    }
    push(&mut *stream, 8).unwrap();
    assert_eq!(stream.ready(), 5);
}

#[test]
fn reference_startup_gives_its_first_frames_after_twenty_five() {
    let mut stream = stream(Options::default());
    for number in 0..24 {
        push(&mut *stream, number).unwrap();
        assert_eq!(stream.ready(), 0);
    }
    push(&mut *stream, 24).unwrap();
    assert_eq!(stream.ready(), 21);
}

/// What the next frames will be cannot change a frame: every window sees the past and four frames of look-ahead only.
#[test]
fn output_depends_on_the_past_and_four_frames_more() {
    for (options, windows) in [(low_latency(), [5, 13, 21]), (Options::default(), [21, 29, 37])] {
        let long = run(&mut *stream(options.clone()), 48);
        for shown in windows {
            let short = run(&mut *stream(options.clone()), shown + 4);
            assert_eq!(short[..shown as usize], long[..shown as usize], "{shown} frames");
        }
    }
}

#[test]
fn runs_repeat_to_the_bit() {
    for options in [low_latency(), Options::default()] {
        let first = run(&mut *stream(options.clone()), 30);
        assert_eq!(first, run(&mut *stream(options.clone()), 30));
        let reseeded = run(&mut *stream(Options { seed: 1, ..options }), 30);
        assert_ne!(first, reseeded);
    }
}

#[test]
fn a_stream_starts_anew_after_its_end_and_after_a_reset() {
    let mut stream = stream(Options::default());
    let first = run(&mut *stream, 27);
    assert_eq!(first, run(&mut *stream, 27));
    for number in 0..33 {
        push(&mut *stream, number + 100).unwrap();
    }
    stream.reset();
    assert_eq!(stream.ready(), 0);
    assert_eq!(first, run(&mut *stream, 27));
}

#[test]
fn streams_of_one_model_do_not_disturb_each_other() {
    let alone = run(&mut *stream(low_latency()), 20);
    let model = model();
    let mut streams: Vec<_> =
        (0..2).map(|_| model.clone().stream(geometry(), low_latency(), Cancel::default()).unwrap()).collect();
    let mut outputs = [Vec::new(), Vec::new()];
    for number in 0..20 {
        for (i, (stream, out)) in streams.iter_mut().zip(&mut outputs).enumerate() {
            push(&mut **stream, number + 50 * i as u64).unwrap();
            out.extend(pop_all(&mut **stream));
        }
    }
    streams[0].finish().unwrap();
    outputs[0].extend(pop_all(&mut *streams[0]));
    assert_eq!(outputs[0], alone);
}

#[test]
fn cancelling_interrupts_and_a_reset_recovers() {
    let cancel = Cancel::default();
    let mut stream = model().stream(geometry(), low_latency(), cancel.clone()).unwrap();
    push(&mut *stream, 0).unwrap();
    cancel.cancel();
    assert!(matches!(push(&mut *stream, 1), Err(Error::Cancelled)));
    cancel.clear();
    stream.reset();
    assert_eq!(run(&mut *stream, 12).len(), 12);
}

#[test]
fn every_colour_fix_runs_and_differs() {
    let outputs: Vec<_> = [ColorFix::Adain, ColorFix::Wavelet, ColorFix::None]
        .map(|color_fix| run(&mut *stream(Options { color_fix, ..low_latency() }), 5))
        .into();
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2]);
}

#[test]
fn the_older_projection_differs_from_the_first_steady_call_on() {
    let older = open(&ModelSpec { version: Version::V1, ..spec() }).unwrap();
    let mut older = older.stream(geometry(), low_latency(), Cancel::default()).unwrap();
    assert_ne!(run(&mut *older, 9), run(&mut *stream(low_latency()), 9));
}

#[test]
fn wrong_frames_and_parameters_are_refused() {
    let mut stream = stream(Options::default());
    let samples = [0u8; 300];
    let frame = Frame { width: 10, height: 10, stride: 30, samples: Samples::U8(&samples) };
    let message = stream.push(&frame).unwrap_err().to_string();
    assert!(message.contains("10x10") && message.contains("64x64"), "{message}");
    assert!(matches!(pop(&mut *stream), Err(Error::Settings(_))));

    let refused = |options| model().stream(geometry(), options, Cancel::default()).err().unwrap().to_string();
    let message = refused(Options { sparse_ratio: 0.0, ..Options::default() });
    assert!(message.contains("sparse-ratio"), "{message}");
    let message = refused(Options { kv_ratio: 0.5, ..Options::default() });
    assert!(message.contains("kv-ratio"), "{message}");
    let message = open(&ModelSpec { device: "cuda:99".into(), ..spec() }).err().unwrap().to_string();
    assert!(message.contains("cuda:99") && message.contains("device=cpu"), "{message}");
}

#[test]
fn memory_is_known_before_the_first_frame_and_refused_when_there_is_none() {
    let checkpoint = gstflashvsr::model::checkpoint::Checkpoint::open(&spec().path).unwrap();
    let config = gstflashvsr::model::Config::from_checkpoint(&checkpoint).unwrap();
    let small = plan(&config, geometry(), Options::default()).unwrap();
    let large = Size::new(512, 256);
    let large = Geometry::new(large, Geometry::scaled_size(large, 2.0), SizePolicy::Pad).unwrap();
    let large = plan(&config, large, Options::default()).unwrap();
    assert_eq!(small.weight_bytes, large.weight_bytes);
    assert_eq!(small.weight_bytes, weight_bytes(&config).unwrap());
    assert!(large.stream_bytes > 20 * small.stream_bytes, "{small:?} {large:?}");
    assert!(large.steady_flops > 20 * small.steady_flops, "{small:?} {large:?}");

    let endless = Geometry::new(INPUT, Size::new(1 << 15, 1 << 15), SizePolicy::Pad).unwrap();
    let error = model().stream(endless, Options::default(), Cancel::default()).err().unwrap();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
}

/// Loads the tiny model from a directory of its own, so that nothing is shared with what was loaded before, and runs a stream.
fn fresh_start(device: &str, frames: u64) -> Vec<Vec<u8>> {
    let dir = tempfile::TempDir::new().unwrap();
    for name in gstflashvsr::model::checkpoint::Checkpoint::FILES {
        std::fs::copy(spec().path.join(name), dir.path().join(name)).unwrap();
    }
    let spec = ModelSpec { path: dir.path().into(), device: device.into(), precision: None, ..spec() };
    let mut stream = open(&spec).unwrap().stream(geometry(), low_latency(), Cancel::default()).unwrap();
    run(&mut *stream, frames)
}

#[test]
fn every_start_gives_the_same_bits() {
    assert_eq!(fresh_start("cpu", 18), fresh_start("cpu", 18));
}

#[cfg(feature = "emulator")]
#[test]
fn every_start_of_an_emulated_gpu_gives_the_same_bits() {
    assert_eq!(fresh_start("emulator", 18), fresh_start("emulator", 18));
}

#[cfg(feature = "gpu-tests")]
#[test]
fn every_start_of_a_gpu_gives_the_same_bits() {
    assert_eq!(fresh_start("cuda", 42), fresh_start("cuda", 42));
}

/// The whole engine, frames in to frames out, on an emulated GPU: the memory plan, the caches of keys and values, what stays on
/// the device between windows, and the frames on their way.
#[cfg(feature = "emulator")]
#[test]
fn an_emulated_gpu_gives_the_frames_of_the_cpu() {
    use gstflashvsr::upscaler::Precision;

    const FRAMES: u64 = 42;
    let options = |pipelined| Options { pipelined, ..low_latency() };
    let frames = |device: &str, precision, pipelined| {
        let spec = ModelSpec { device: device.into(), precision, threads: 0, ..spec() };
        let mut stream = open(&spec).unwrap().stream(geometry(), options(pipelined), Cancel::default()).unwrap();
        run(&mut *stream, FRAMES)
    };
    let want = frames("cpu", None, false);
    let exact = frames("emulator", Some(Precision::F32), false);
    assert_eq!((want.len(), exact.len()), (FRAMES as usize, FRAMES as usize));
    let difference = |a: &[Vec<u8>], b: &[Vec<u8>]| -> (u8, f64) {
        let pairs = || a.iter().flatten().zip(b.iter().flatten());
        let square: f64 = pairs().map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
        let psnr = 10.0 * (255.0 * 255.0 * pairs().count() as f64 / square.max(1e-9)).log10();
        (pairs().map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0), psnr)
    };
    let (worst, psnr) = difference(&want, &exact);
    assert!(worst <= 1 && psnr > 60.0, "f32 differs by {worst}, {psnr:.1} dB");
    let rounded = frames("emulator", None, true);
    let (worst, psnr) = difference(&want, &rounded);
    assert!(psnr > 40.0, "bf16 differs by {worst}, {psnr:.1} dB");
}
