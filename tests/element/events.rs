// SPDX-License-Identifier: MPL-2.0

use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::pool::offer_pool;
use crate::rig::{FRAME, Rig, SMALL, number};

/// Everything that leaves the element, in order: frames by their number, events by their name.
fn log(rig: &Rig) -> Arc<Mutex<Vec<String>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::EVENT_DOWNSTREAM | gst::PadProbeType::EVENT_FLUSH;
    rig.element.static_pad("src").unwrap().add_probe(mask, move |pad, info| {
        let entry = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => {
                let caps = pad.current_caps().unwrap();
                number(buffer, &gstreamer_video::VideoInfo::from_caps(&caps).unwrap()).to_string()
            }
            Some(gst::PadProbeData::Event(event)) => event.type_().name().to_string(),
            _ => return gst::PadProbeReturn::Ok,
        };
        log.lock().unwrap().push(entry);
        gst::PadProbeReturn::Ok
    });
    seen
}

fn tag(title: &str) -> gst::Event {
    let mut tags = gst::TagList::new();
    tags.make_mut().add::<gst::tags::Title>(&title, gst::TagMergeMode::Append);
    gst::event::Tag::new(tags)
}

fn low_latency() -> Rig {
    Rig::new(&[("startup", "low-latency")], SMALL)
}

#[test]
fn a_tag_stays_between_its_frames() {
    let mut rig = low_latency();
    let log = log(&rig);
    rig.harness.push_event(tag("before"));
    rig.push(0..2);
    rig.harness.push_event(tag("between"));
    rig.push(2..3);
    rig.harness.push_event(gst::event::CustomDownstream::new(gst::Structure::new_empty("custom")));
    rig.eos();
    assert_eq!(*log.lock().unwrap(), ["tag", "0", "1", "tag", "2", "custom-downstream", "eos"]);
}

#[test]
fn a_tag_passes_with_its_window_and_not_later() {
    let mut rig = low_latency();
    let log = log(&rig);
    rig.push(0..5);
    rig.harness.push_event(tag("after frame 4"));
    rig.push(5..9);
    assert_eq!(*log.lock().unwrap(), ["0", "1", "2", "3", "4", "tag"]);
}

#[test]
fn segments_and_gaps_come_after_the_frames_before_them() {
    let mut rig = low_latency();
    let log = log(&rig);
    rig.push(0..2);
    assert!(rig.harness.push_event(gst::event::Gap::builder(FRAME * 2).duration(FRAME).build()));
    rig.push(3..4);
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    assert!(rig.harness.push_event(gst::event::Segment::new(&segment)));
    rig.push(4..5);
    assert!(rig.harness.push_event(gst::event::SegmentDone::new(FRAME * 5)));
    rig.push(5..6);
    assert!(rig.harness.push_event(gst::event::StreamStart::new("another")));
    rig.harness.push_event(gst::event::Segment::new(&segment));
    rig.push(6..7);
    rig.eos();
    let expected = ["0", "1", "gap", "3", "segment", "4", "segment-done", "5", "stream-start", "segment", "6", "eos"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn a_discontinuity_drains_and_starts_the_model_anew() {
    let pictures = |buffers: Vec<gst::Buffer>| -> Vec<Vec<u8>> {
        buffers.iter().map(|buffer| buffer.map_readable().unwrap().to_vec()).collect()
    };
    let mut rig = low_latency();
    rig.push(20..24);
    let mut first = rig.frame(0);
    first.make_mut().set_flags(gst::BufferFlags::DISCONT);
    rig.harness.push(first).unwrap();
    assert_eq!(rig.numbers(), [20, 21, 22, 23]);
    rig.push(1..12);
    rig.eos();
    let after = pictures(rig.output());
    let mut fresh = low_latency();
    fresh.push(0..12);
    fresh.eos();
    assert_eq!(after, pictures(fresh.output()), "as if nothing had been before");
}

#[test]
fn a_flush_drops_what_is_held_and_starts_anew() {
    let mut rig = low_latency();
    rig.push(20..30);
    assert_eq!(rig.numbers(), [20, 21, 22, 23, 24]);
    rig.harness.push_event(gst::event::FlushStart::new());
    rig.harness.push_event(gst::event::FlushStop::new(true));
    let segment = gst::FormattedSegment::<gst::ClockTime>::new();
    rig.harness.push_event(gst::event::Segment::new(&segment));
    rig.push(0..7);
    rig.eos();
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4, 5, 6]);
    assert!(rig.errors().is_empty());
}

#[test]
fn a_tag_that_a_flush_catches_is_not_lost() {
    let mut rig = low_latency();
    rig.push(0..2);
    rig.harness.push_event(tag("sticky"));
    rig.harness.push_event(gst::event::FlushStart::new());
    rig.harness.push_event(gst::event::FlushStop::new(true));
    let pad = rig.element.static_pad("src").unwrap();
    let kept = pad.sticky_event::<gst::event::Tag>(0).expect("the tag is on the pad");
    assert_eq!(kept.tag().get::<gst::tags::Title>().unwrap().get(), "sticky");
}

#[test]
fn eos_twice_and_frames_after_a_flush_are_harmless() {
    let mut rig = low_latency();
    rig.push(0..3);
    rig.eos();
    rig.harness.push_event(gst::event::FlushStart::new());
    rig.harness.push_event(gst::event::FlushStop::new(true));
    rig.harness.push_event(gst::event::Segment::new(&gst::FormattedSegment::<gst::ClockTime>::new()));
    rig.push(3..5);
    rig.eos();
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_drain_that_downstream_refuses_ends_with_an_error_and_still_eos() {
    let mut rig = low_latency();
    let log = log(&rig);
    rig.push(0..3);
    rig.element.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, |_, info| {
        info.flow_res = Err(gst::FlowError::NotNegotiated);
        info.data = None;
        gst::PadProbeReturn::Handled
    });
    rig.eos();
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("could not be pushed"), "{errors:?}");
    assert_eq!(log.lock().unwrap().last().unwrap(), "eos");
    assert_eq!(held(&rig), 0);
}

fn held(rig: &Rig) -> u64 {
    rig.element.property::<gst::Structure>("stats").get("frames-held").unwrap()
}

#[test]
fn an_error_during_a_drain_is_told_once() {
    let mut rig = low_latency();
    // What is downstream gives buffers that are too small.
    offer_pool(&rig, |buffer| buffer.set_size(10));
    rig.set_caps(&SMALL.replace("width=64", "width=60"));
    rig.push(0..3);
    rig.eos();
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("negotiated caps"), "{errors:?}");
    assert_eq!(held(&rig), 0);
}

#[test]
fn events_behind_a_frame_are_bounded_and_none_is_lost() {
    let mut rig = low_latency();
    let log = log(&rig);
    rig.push(0..1);
    for i in 0..900 {
        rig.harness.push_event(tag(&i.to_string()));
    }
    assert_eq!((held(&rig), log.lock().unwrap().len()), (1, 0), "these wait for their window");
    for i in 900..5000 {
        rig.harness.push_event(tag(&i.to_string()));
    }
    assert_eq!((held(&rig), log.lock().unwrap().len()), (0, 5001), "so many do not");
    rig.push(1..2);
    rig.eos();
    let log = log.lock().unwrap();
    assert_eq!((log[0].as_str(), log[5001].as_str(), log[5002].as_str()), ("0", "1", "eos"));
    assert!(log[1..5001].iter().all(|entry| entry == "tag"));
    assert!(rig.errors().is_empty());
}
