// SPDX-License-Identifier: MPL-2.0

//! A `flashvsr` element between two pads of the test.

use std::path::PathBuf;
use std::sync::LazyLock;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_check as gst_check;
use gstreamer_video as gst_video;

use gst_video::prelude::*;
use gstflashvsr::upscaler::{self, ModelSpec};

/// Directory of the tiny model.
pub fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity")
}

/// Registers the plugin, and keeps the model in memory from test to test.
pub fn init() {
    static READY: LazyLock<std::sync::Arc<dyn upscaler::Model>> = LazyLock::new(|| {
        gst::init().unwrap();
        gstflashvsr::register_static().unwrap();
        let spec =
            ModelSpec { path: model(), version: Default::default(), device: "cpu".into(), precision: None, threads: 0 };
        upscaler::open(&spec).unwrap()
    });
    LazyLock::force(&READY);
}

/// A `flashvsr` element with the tiny model.
pub fn element(properties: &[(&str, &str)]) -> gst::Element {
    init();
    let element = gst::ElementFactory::make("flashvsr").property("model", model().to_str()).build().unwrap();
    for (name, value) in properties {
        element.set_property_from_str(name, value);
    }
    element
}

/// The element, playing, with a pad before and behind it.
pub struct Rig {
    pub harness: gst_check::Harness,
    pub element: gst::Element,
    pub bus: gst::Bus,
    info: gst_video::VideoInfo,
}

/// 25 frames per second.
pub const FRAME: gst::ClockTime = gst::ClockTime::from_mseconds(40);

pub const SMALL: &str = "video/x-raw,format=GRAY8,width=64,height=64,framerate=25/1";

impl Rig {
    pub fn new(properties: &[(&str, &str)], caps: &str) -> Self {
        Self::with_sink(properties, caps, "ANY")
    }

    /// A rig with caps downstream.
    pub fn with_sink(properties: &[(&str, &str)], caps: &str, sink: &str) -> Self {
        let element = element(properties);
        let bus = gst::Bus::new();
        element.set_bus(Some(&bus));
        let mut harness = gst_check::Harness::with_element(&element, Some("sink"), Some("src"));
        let parsed: gst::Caps = caps.parse().unwrap();
        harness.set_sink_caps_str(sink);
        harness.set_src_caps(parsed.clone());
        Self { harness, element, bus, info: gst_video::VideoInfo::from_caps(&parsed).unwrap() }
    }

    pub fn set_caps(&mut self, caps: &str) {
        let parsed: gst::Caps = caps.parse().unwrap();
        self.info = gst_video::VideoInfo::from_caps(&parsed).unwrap();
        assert!(self.harness.push_event(gst::event::Caps::new(&parsed)));
    }

    /// A frame of one grey level, which its number tells.
    pub fn frame(&self, number: usize) -> gst::Buffer {
        let mut buffer = flat(&self.info, level(number));
        let buffer_ref = buffer.make_mut();
        buffer_ref.set_pts(FRAME * number as u64);
        buffer_ref.set_duration(FRAME);
        buffer_ref.set_offset(number as u64);
        buffer
    }

    /// Pushes frames of these numbers.
    pub fn push(&mut self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            let frame = self.frame(number);
            self.harness.push(frame).unwrap();
        }
    }

    pub fn eos(&mut self) {
        assert!(self.harness.push_event(gst::event::Eos::new()));
    }

    /// The frames that have come out so far.
    pub fn output(&mut self) -> Vec<gst::Buffer> {
        std::iter::from_fn(|| self.harness.try_pull()).collect()
    }

    /// The numbers of the frames that have come out so far, by their pictures.
    pub fn numbers(&mut self) -> Vec<usize> {
        let info = self.output_info();
        self.output().iter().map(|buffer| number(buffer, &info)).collect()
    }

    pub fn output_info(&self) -> gst_video::VideoInfo {
        let caps = self.element.static_pad("src").unwrap().current_caps().unwrap();
        gst_video::VideoInfo::from_caps(&caps).unwrap()
    }

    pub fn errors(&self) -> Vec<String> {
        std::iter::from_fn(|| self.bus.pop_filtered(&[gst::MessageType::Error]))
            .map(|message| match message.view() {
                gst::MessageView::Error(error) => error.error().to_string(),
                _ => unreachable!(),
            })
            .collect()
    }
}

/// The grey level of a frame; neighbours differ clearly, and 64 frames are told apart.
pub fn level(number: usize) -> u8 {
    20 + 3 * (number % 64) as u8
}

/// A frame whose every sample is `value`.
pub fn flat(info: &gst_video::VideoInfo, value: u8) -> gst::Buffer {
    let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
    buffer.make_mut().map_writable().unwrap().fill(value);
    buffer
}

/// The mean of a grey frame.
pub fn mean(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> f64 {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).unwrap();
    let (width, stride) = (info.width() as usize, frame.plane_stride()[0] as usize);
    let rows = frame.plane_data(0).unwrap().chunks(stride).take(info.height() as usize);
    let sum: u64 = rows.flat_map(|row| &row[..width]).map(|&sample| u64::from(sample)).sum();
    sum as f64 / (width * info.height() as usize) as f64
}

/// The number of a frame, by its grey level.
pub fn number(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> usize {
    ((mean(buffer, info) - 20.0) / 3.0).round() as usize
}
