// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::rig::{Rig, SMALL};

/// The output size of nine frames of `input`, with `sink` caps downstream.
fn output_size(properties: &[(&str, &str)], input: &str, sink: Option<&str>) -> (u32, u32) {
    let input = SMALL.replace("width=64,height=64", input);
    let mut rig = Rig::with_sink(properties, &input, sink.unwrap_or("ANY"));
    rig.push(0..5);
    rig.eos();
    assert_eq!(rig.errors(), Vec::<String>::new());
    let info = rig.output_info();
    let output = rig.output();
    assert_eq!(output.len(), 5);
    assert!(output.iter().all(|buffer| buffer.size() == info.size()));
    (info.width(), info.height())
}

#[test]
fn odd_sizes_are_exact() {
    assert_eq!(output_size(&[], "width=53,height=37", None), (106, 74));
    assert_eq!(output_size(&[("scale", "2.5")], "width=53,height=37", None), (132, 92));
    assert_eq!(output_size(&[("scale", "1")], "width=1,height=3", None), (1, 3));
}

#[test]
fn crop_cuts_to_multiples_of_128() {
    assert_eq!(output_size(&[("size-policy", "crop")], "width=70,height=135", None), (128, 256));
}

#[test]
fn a_size_that_downstream_fixes_wins_over_the_scale() {
    assert_eq!(output_size(&[], "width=64,height=64", Some("video/x-raw,width=150,height=130")), (150, 130));
    assert_eq!(output_size(&[], "width=64,height=64", Some("video/x-raw,width=64,height=64")), (64, 64));
    assert_eq!(output_size(&[], "width=16,height=16", Some("video/x-raw,width=128,height=128")), (128, 128));
    let crop = [("size-policy", "crop")];
    assert_eq!(output_size(&crop, "width=60,height=60", Some("video/x-raw,width=256,height=128")), (256, 128));
}

#[test]
fn a_size_that_downstream_changes_midway_keeps_every_frame() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..3);
    rig.harness.set_sink_caps_str("video/x-raw,width=100,height=90");
    rig.push(3..5);
    rig.eos();
    let sizes: Vec<_> = rig.output().iter().map(|buffer| buffer.size()).collect();
    assert_eq!(sizes, [128 * 128, 128 * 128, 128 * 128, 100 * 90, 100 * 90]);
}

#[test]
fn a_limit_downstream_keeps_the_shape() {
    let limit = "video/x-raw,width=[1,100],height=[1,100]";
    assert_eq!(output_size(&[("scale", "4")], "width=64,height=48", Some(limit)), (100, 75));
}

#[test]
fn new_caps_midway_keep_every_frame_in_its_own_size() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..30);
    rig.set_caps(&SMALL.replace("width=64,height=64", "width=40,height=50"));
    rig.push(30..33);
    rig.set_caps(&SMALL.replace("GRAY8", "I420"));
    rig.push(33..36);
    rig.eos();
    let sizes: Vec<_> = rig.output().iter().map(|buffer| buffer.size()).collect();
    let expected = [(30, 128 * 128), (3, 80 * 100), (3, 128 * 128 * 3 / 2)];
    let expected: Vec<usize> = expected.into_iter().flat_map(|(n, size)| vec![size; n]).collect();
    assert_eq!(sizes, expected);
    assert!(rig.errors().is_empty());
}

#[test]
fn caps_go_between_the_frames_that_they_describe() {
    let mut rig = Rig::new(&[], SMALL);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    rig.element.static_pad("src").unwrap().add_probe(
        gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM,
        move |_, info| {
            let entry = match &info.data {
                Some(gst::PadProbeData::Buffer(_)) => "frame",
                Some(gst::PadProbeData::Event(event)) if event.type_() == gst::EventType::Caps => "caps",
                _ => return gst::PadProbeReturn::Ok,
            };
            log.lock().unwrap().push(entry);
            gst::PadProbeReturn::Ok
        },
    );
    rig.push(0..2);
    rig.set_caps(&SMALL.replace("width=64", "width=60"));
    rig.push(2..3);
    rig.eos();
    assert_eq!(*seen.lock().unwrap(), ["frame", "frame", "caps", "frame"]);
}

#[test]
fn the_sink_pad_offers_what_can_become_the_fixed_output() {
    let rig = Rig::with_sink(&[], SMALL, "video/x-raw,format=GRAY8,width=256,height=128");
    let allowed = rig.element.static_pad("sink").unwrap().query_caps(None);
    let first = allowed.structure(0).unwrap();
    assert_eq!((first.get("width"), first.get("height")), (Ok(128), Ok(64)), "{allowed}");
    assert!(allowed.can_intersect(&"video/x-raw,width=32,height=16".parse::<gst::Caps>().unwrap()));
    assert!(!allowed.can_intersect(&"video/x-raw,width=31,height=16".parse::<gst::Caps>().unwrap()));
}

/// What the element says of frames of this size.
fn refusal(properties: &[(&str, &str)], size: &str, sink: &str) -> String {
    let rig = Rig::with_sink(properties, &SMALL.replace("width=64,height=64", size), sink);
    let mut errors = rig.errors();
    assert_eq!(errors.len(), 1, "{size}: {errors:?}");
    errors.remove(0)
}

#[test]
fn a_frame_that_gstreamer_cannot_describe_is_refused_with_the_reason() {
    for sink in ["ANY", "video/x-raw,width=[1,100000],height=[1,100000]"] {
        let error = refusal(&[("scale", "8")], "width=8192,height=8192", sink);
        assert!(error.contains("65536x65536 is larger"), "{error}");
    }
}

#[test]
fn a_picture_that_no_memory_holds_is_refused_at_once() {
    for (size, scale) in
        [("width=300000000,height=1", "2"), ("width=1,height=16000000", "2"), ("width=16000,height=16000", "4")]
    {
        let error = refusal(&[("scale", scale)], size, "ANY");
        assert!(error.contains("not enough memory"), "{size}: {error}");
    }
}
