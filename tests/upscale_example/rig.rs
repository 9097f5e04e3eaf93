// SPDX-License-Identifier: MPL-2.0

//! The program, clips for it, and what is in a file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, LazyLock, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use tempfile::TempDir;

static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| crate::programs::example("upscale"));

/// The program, about to be run in the directory with the tiny model of the parity data.
pub fn command(args: &[&str], dir: &TempDir) -> Command {
    let mut command = Command::new(&*PROGRAM);
    command.args(args).current_dir(dir).env("FLASHVSR_MODEL", crate::programs::MODEL);
    command
}

/// Runs the program to its end.
pub fn upscale(args: &[&str], dir: &TempDir) -> Output {
    command(args, dir).output().unwrap()
}

/// What a program says on its way to failure.
pub fn complaint(args: &[&str], dir: &TempDir) -> String {
    let output = upscale(args, dir);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Makes sure that the program went to its end, or shows what it said.
pub fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a program has said on its standard output and its standard error.
pub fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// How long a file lasts by its own account.
pub fn duration(dir: &TempDir, name: &str) -> gst::ClockTime {
    gst::init().unwrap();
    let discoverer = gstreamer_pbutils::Discoverer::new(gst::ClockTime::from_seconds(30)).unwrap();
    let uri = gst::glib::filename_to_uri(dir.path().join(name), None).unwrap();
    discoverer.discover_uri(&uri).unwrap().duration().unwrap()
}

/// Runs a pipeline in the directory to its end.
pub fn launch(dir: &TempDir, description: &str) {
    gst::init().unwrap();
    let description = description.replace("DIR", dir.path().to_str().unwrap());
    let pipeline = gst::parse::launch(&description).unwrap();
    play(&pipeline);
}

/// Runs a pipeline to its end.
pub fn play(pipeline: &gst::Element) {
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
pub fn clip(dir: &TempDir, frames: usize, format: &str) {
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
pub struct Stream {
    /// What the stream is.
    pub caps: Option<gst::Structure>,
    /// Time, in microseconds, and bytes of each packet.
    pub packets: Vec<(u64, Vec<u8>)>,
}

impl Stream {
    /// Timestamps in the order of presentation.
    pub fn times(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.packets.iter().map(|(time, _)| *time).collect();
        times.sort_unstable();
        times
    }

    /// The bytes of each packet, in the order of the file.
    pub fn bytes(&self) -> Vec<&[u8]> {
        self.packets.iter().map(|(_, bytes)| bytes.as_slice()).collect()
    }

    fn is(&self, kind: &str) -> bool {
        self.caps.as_ref().is_some_and(|caps| caps.name().starts_with(kind))
    }

    /// A field of the caps, as text.
    pub fn field(&self, name: &str) -> String {
        let caps = self.caps.as_ref().unwrap();
        caps.value(name).unwrap().serialize().unwrap().to_string()
    }

    /// Width and height, as text.
    pub fn size(&self) -> (String, String) {
        (self.field("width"), self.field("height"))
    }
}

/// A size as [`Stream::size`] gives it.
pub fn size(width: u32, height: u32) -> (String, String) {
    (width.to_string(), height.to_string())
}

/// The packets of every stream of a file: the video, then the audio tracks in the order of their names.
pub fn streams(dir: &TempDir, name: &str) -> (Stream, Vec<Stream>) {
    let all = all_streams(dir, name);
    let of = |kind| all.iter().filter(move |stream| stream.is(kind)).cloned().collect::<Vec<_>>();
    let video = of("video/");
    assert_eq!(video.len(), 1);
    (video.into_iter().next().unwrap(), of("audio/"))
}

/// The streams of a file whose types begin with `kind`.
pub fn streams_of(dir: &TempDir, name: &str, kind: &str) -> Vec<Stream> {
    all_streams(dir, name).into_iter().filter(|stream| stream.is(kind)).collect()
}

/// The packets of every stream of a file.
fn all_streams(dir: &TempDir, name: &str) -> Vec<Stream> {
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

    std::mem::take(&mut *found.lock().unwrap()).into_values().collect()
}
