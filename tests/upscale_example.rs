// SPDX-License-Identifier: MPL-2.0

//! The example `upscale`, run as a user runs it, on real H.264 and AAC files that are made here.

mod programs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use tempfile::TempDir;

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| programs::example("upscale"));

fn command(args: &[&str], dir: &TempDir) -> Command {
    let mut command = Command::new(&*PROGRAM);
    command.args(args).current_dir(dir).env("FLASHVSR_MODEL", programs::MODEL);
    command
}

fn upscale(args: &[&str], dir: &TempDir) -> Output {
    command(args, dir).output().unwrap()
}

/// What a program says on its way to failure.
fn complaint(args: &[&str], dir: &TempDir) -> String {
    let output = upscale(args, dir);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a pipeline in the directory to its end.
fn launch(dir: &TempDir, description: &str) {
    gst::init().unwrap();
    let description = description.replace("DIR", dir.path().to_str().unwrap());
    let pipeline = gst::parse::launch(&description).unwrap();
    play(&pipeline);
}

fn play(pipeline: &gst::Element) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let end = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(60), &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    let end = end.expect("no end within a minute");
    assert!(matches!(end.view(), gst::MessageView::Eos(_)), "{end:?}");
}

/// A clip of `frames` frames of `format` at 30000/1001 with two audio tracks of the same length.
fn clip(dir: &TempDir, frames: usize, format: &str) {
    let packets = frames * 1470 / 1024;
    launch(
        dir,
        &format!(
            "mp4mux name=mux ! filesink location=DIR/in.mp4 \
             videotestsrc num-buffers={frames} pattern=smpte \
             ! video/x-raw,format={format},width=64,height=48,framerate=30000/1001,pixel-aspect-ratio=4/3,colorimetry=bt709 \
             ! x264enc ! h264parse ! queue ! mux. \
             audiotestsrc num-buffers={packets} samplesperbuffer=1024 \
             ! audio/x-raw,rate=44100,channels=2 ! avenc_aac ! queue ! mux. \
             audiotestsrc num-buffers={packets} samplesperbuffer=1024 freq=880 \
             ! audio/x-raw,rate=44100,channels=1 ! avenc_aac ! queue ! mux."
        ),
    );
}

/// One stream of a file.
#[derive(Debug, Clone, Default)]
struct Stream {
    caps: Option<gst::Structure>,
    /// Time, in microseconds, and bytes of each packet.
    packets: Vec<(u64, Vec<u8>)>,
}

impl Stream {
    /// Timestamps in the order of presentation.
    fn times(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.packets.iter().map(|(time, _)| *time).collect();
        times.sort_unstable();
        times
    }

    fn bytes(&self) -> Vec<&[u8]> {
        self.packets.iter().map(|(_, bytes)| bytes.as_slice()).collect()
    }

    /// A field of the caps, as text.
    fn field(&self, name: &str) -> String {
        let caps = self.caps.as_ref().unwrap();
        caps.value(name).unwrap().serialize().unwrap().to_string()
    }

    fn size(&self) -> (String, String) {
        (self.field("width"), self.field("height"))
    }
}

fn size(width: u32, height: u32) -> (String, String) {
    (width.to_string(), height.to_string())
}

/// The packets of every stream of a file: the video, then the audio tracks in the order of their names.
fn streams(dir: &TempDir, name: &str) -> (Stream, Vec<Stream>) {
    gst::init().unwrap();
    let pipeline = gst::Pipeline::new();
    let source = gst::ElementFactory::make("filesrc").property("location", dir.path().join(name)).build().unwrap();
    let parser = gst::ElementFactory::make("parsebin").build().unwrap();
    pipeline.add_many([&source, &parser]).unwrap();
    source.link(&parser).unwrap();

    let found: Arc<Mutex<BTreeMap<String, Stream>>> = Arc::default();
    let weak = pipeline.downgrade();
    let streams = found.clone();
    parser.connect_pad_added(move |_, pad| {
        let pipeline = weak.upgrade().unwrap();
        let sink = gst::ElementFactory::make("fakesink").property("sync", false).build().unwrap();
        let queue = gst::ElementFactory::make("queue")
            .property("max-size-buffers", 0u32)
            .property("max-size-bytes", 0u32)
            .property("max-size-time", 0u64)
            .build()
            .unwrap();
        pipeline.add_many([&queue, &sink]).unwrap();
        queue.link(&sink).unwrap();
        queue.sync_state_with_parent().unwrap();
        sink.sync_state_with_parent().unwrap();
        let streams = streams.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let buffer = info.buffer().unwrap();
            let mut streams = streams.lock().unwrap();
            let stream = streams.entry(pad.name().to_string()).or_default();
            stream.caps = pad.current_caps().map(|caps| caps.structure(0).unwrap().to_owned());
            let bytes = buffer.map_readable().unwrap().to_vec();
            // Running time, which takes edit lists into account. Headers in the stream have none.
            let segment = pad.sticky_event::<gst::event::Segment>(0).unwrap();
            let segment = segment.segment().downcast_ref::<gst::ClockTime>().unwrap();
            let time = segment.to_running_time(buffer.pts()).map_or(0, |time| (time.nseconds() + 500) / 1000);
            stream.packets.push((time, bytes));
            gst::PadProbeReturn::Ok
        });
        pad.link(&queue.static_pad("sink").unwrap()).unwrap();
    });
    play(pipeline.upcast_ref());

    let (video, audio): (Vec<_>, Vec<_>) = std::mem::take(&mut *found.lock().unwrap())
        .into_values()
        .partition(|stream| stream.caps.as_ref().unwrap().name().starts_with("video/"));
    assert_eq!(video.len(), 1);
    (video.into_iter().next().unwrap(), audio)
}

#[test]
fn every_frame_comes_out_at_its_time_and_the_sound_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 30, "I420");
    let output = upscale(&["in.mp4", "out.mp4"], &dir);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("30 frames in, 30 frames out, 64x48 to 128x96"), "{said}");
    assert!(said.trim_end().ends_with("2 audio tracks copied"), "{said}");

    let (video_in, audio_in) = streams(&dir, "in.mp4");
    let (video_out, audio_out) = streams(&dir, "out.mp4");
    assert_eq!(video_in.packets.len(), 30);
    assert_eq!(video_out.times(), video_in.times());
    assert_eq!(video_out.size(), size(128, 96));
    for field in ["pixel-aspect-ratio", "framerate"] {
        assert_eq!(video_out.field(field), video_in.field(field), "{field}");
    }
    assert_eq!(video_out.field("colorimetry"), "bt709");
    assert_eq!(audio_out.len(), 2);
    for (out, before) in audio_out.iter().zip(&audio_in) {
        assert!(before.packets.len() > 30);
        assert_eq!(out.bytes(), before.bytes());
        assert_eq!(out.times(), before.times());
    }
}

#[test]
fn matroska_takes_ten_bits_and_h265() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 12, "I420_10LE");
    let args = ["in.mp4", "out.mkv", "--codec", "h265", "--startup", "low-latency", "--scale", "1.5"];
    assert_success(&upscale(&args, &dir));
    let (video, audio) = streams(&dir, "out.mkv");
    assert_eq!(video.caps.as_ref().unwrap().name(), "video/x-h265");
    assert_eq!(video.packets.len(), 12);
    assert_eq!(video.field("bit-depth-luma"), "10");
    assert_eq!(video.size(), size(96, 72));
    let (_, before) = streams(&dir, "in.mp4");
    assert_eq!(audio[0].bytes(), before[0].bytes());
}

#[test]
fn variable_frame_rates_survive() {
    let dir = tempfile::tempdir().unwrap();
    // Of every four frames of a steady clip one is missing.
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=16 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! identity name=drop \
         ! x264enc bframes=0 ! h264parse ! matroskamux ! filesink location={}/in.mkv",
        dir.path().display()
    ))
    .unwrap();
    let drop = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("drop").unwrap();
    drop.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, |_, info| {
        let time = info.buffer().unwrap().pts().unwrap();
        if time.mseconds() % 160 == 80 { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    play(&pipeline);

    assert_success(&upscale(&["in.mkv", "out.mp4", "--startup", "low-latency"], &dir));
    let (before, _) = streams(&dir, "in.mkv");
    let (after, _) = streams(&dir, "out.mp4");
    assert_eq!(before.packets.len(), 12);
    let milliseconds =
        |stream: &Stream| -> Vec<u64> { stream.times().iter().map(|time| (time + 500) / 1000).collect() };
    assert_eq!(milliseconds(&after), milliseconds(&before));
}

#[test]
fn a_comparison_is_twice_as_wide() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 10, "I420");
    assert_success(&upscale(&["in.mp4", "out.mov", "--compare", "--startup", "low-latency"], &dir));
    let (before, _) = streams(&dir, "in.mp4");
    let (video, audio) = streams(&dir, "out.mov");
    assert_eq!(video.size(), size(256, 96));
    assert_eq!(video.times(), before.times());
    assert_eq!(audio.len(), 2);
}

#[test]
fn sound_that_does_not_fit_is_encoded_anew_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "matroskamux name=mux ! filesink location=DIR/in.mkv \
         videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! x264enc ! h264parse ! queue ! mux. \
         audiotestsrc num-buffers=18 samplesperbuffer=1024 ! audio/x-raw,rate=44100 ! flacenc ! queue ! mux.",
    );
    let output = upscale(&["in.mkv", "out.mp4", "--startup", "low-latency"], &dir);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("audio track 1 (audio/x-flac)") && said.contains("AAC"), "{said}");
    let (_, audio) = streams(&dir, "out.mp4");
    assert_eq!(audio[0].caps.as_ref().unwrap().name(), "audio/mpeg");

    assert_success(&upscale(&["in.mkv", "out.mkv", "--startup", "low-latency"], &dir));
    let (_, before) = streams(&dir, "in.mkv");
    let (_, copied) = streams(&dir, "out.mkv");
    assert_eq!(copied[0].bytes(), before[0].bytes());
}

#[test]
fn wrong_inputs_are_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 2, "I420");
    std::fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    launch(&dir, "audiotestsrc num-buffers=20 ! avenc_aac ! mp4mux ! filesink location=DIR/sound.mp4");
    let refused = |args: &[&str], words: &[&str]| {
        let said = complaint(args, &dir);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    };
    refused(&["none.mp4", "out.mp4"], &["none.mp4", "No such file"]);
    refused(&["text.mp4", "out.mp4"], &["type of stream"]);
    refused(&["sound.mp4", "out.mp4"], &["no video stream"]);
    refused(&["in.mp4", "in.mp4"], &["is the input"]);
    refused(&["in.mp4", "none/out.mp4"], &["cannot write", "none/out.mp4"]);
    refused(&["in.mp4", "out.avi"], &[".mp4, .mov or .mkv"]);
    refused(&["in.mp4", "out.mp4", "--model", "none"], &["\"none\"", "--model"]);
    refused(&["in.mp4", "out.mp4", "--model", "."], &["not found"]);
    assert!(!dir.path().join("out.mp4").exists(), "a failed job leaves nothing behind");
    assert_eq!(upscale(&["in.mp4", "out.mp4", "--scale", "9"], &dir).status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_a_file_that_plays() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3000, "I420");
    let mut running =
        command(&["in.mp4", "out.mp4", "--scale", "4", "--startup", "low-latency", "--threads", "1"], &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // The output grows as soon as the first frames are encoded.
    let output = dir.path().join("out.mp4");
    while !std::fs::metadata(&output).is_ok_and(|file| file.len() > 0) {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it wrote anything");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));

    let (video, audio) = streams(&dir, "out.mp4");
    let frames = video.packets.len();
    assert!((1..3000).contains(&frames), "{frames}");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.starts_with(&format!("{frames} frames in, {frames} frames out")), "{said}");
    let (video_end, audio_end) = (video.times()[frames - 1], audio[0].times().last().copied().unwrap());
    assert!(audio_end.abs_diff(video_end) < 100_000, "video ends at {video_end}, audio at {audio_end}");
}
