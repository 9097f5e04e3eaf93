// SPDX-License-Identifier: MPL-2.0

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::rig::{Rig, SMALL, init, model};

/// A pipeline in which every `flashvsr` has the tiny model.
pub fn pipeline(description: &str) -> gst::Pipeline {
    init();
    let model = format!("flashvsr model={}", model().display());
    let description = description.replace("flashvsr", &model);
    gst::parse::launch(&description).unwrap().downcast().unwrap()
}

/// Runs to EOS; panics on an error.
pub fn run(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(gst::ClockTime::from_seconds(120), &[gst::MessageType::Eos, gst::MessageType::Error]);
    pipeline.set_state(gst::State::Null).unwrap();
    match message.as_deref().map(gst::MessageRef::view) {
        Some(gst::MessageView::Eos(_)) => {}
        Some(gst::MessageView::Error(error)) => panic!("{}", error.error()),
        _ => panic!("no end within two minutes"),
    }
}

/// Counts the buffers that reach the pad of a sink.
pub fn count(pipeline: &gst::Pipeline, sink: &str) -> Arc<AtomicU64> {
    let count = Arc::new(AtomicU64::new(0));
    let counter = count.clone();
    let pad = pipeline.by_name(sink).unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        counter.fetch_add(1, Ordering::SeqCst);
        gst::PadProbeReturn::Ok
    });
    count
}

pub const SOURCE: &str = "videotestsrc num-buffers=40 ! video/x-raw,format=I420,width=64,height=48,framerate=10/1";

#[test]
fn a_file_like_pipeline_gives_every_frame() {
    let pipeline = pipeline(&format!("{SOURCE} ! queue ! flashvsr ! videoconvert ! fakesink name=sink"));
    let frames = count(&pipeline, "sink");
    run(&pipeline);
    assert_eq!(frames.load(Ordering::SeqCst), 40);
}

#[test]
fn two_elements_run_side_by_side_and_in_a_row() {
    let pipeline = pipeline(&format!(
        "{SOURCE} ! tee name=t \
         t. ! queue max-size-time=0 ! flashvsr ! fakesink name=one async=false \
         t. ! queue max-size-time=0 ! flashvsr scale=1 startup=low-latency ! flashvsr ! fakesink name=two async=false"
    ));
    let (one, two) = (count(&pipeline, "one"), count(&pipeline, "two"));
    run(&pipeline);
    assert_eq!((one.load(Ordering::SeqCst), two.load(Ordering::SeqCst)), (40, 40));
}

/// A sibling branch that has to preroll beside `flashvsr`, at 10 frames per second.
fn siblings(queue: &str, properties: &str) -> gst::Pipeline {
    pipeline(&format!(
        "{SOURCE} ! tee name=t t. ! queue ! flashvsr {properties} ! fakesink name=sink t. ! {queue} ! fakesink"
    ))
}

fn prerolls(pipeline: &gst::Pipeline, seconds: u64) -> bool {
    pipeline.set_state(gst::State::Paused).unwrap();
    let (result, state, _) = pipeline.state(gst::ClockTime::from_seconds(seconds));
    pipeline.set_state(gst::State::Null).unwrap();
    result.is_ok() && state == gst::State::Paused
}

#[test]
fn a_sibling_queue_of_one_second_deadlocks_the_preroll() {
    // The first window is 25 frames, 2.5 seconds: the sibling's queue is full before.
    assert!(!prerolls(&siblings("queue", ""), 2));
}

#[test]
fn an_unlimited_sibling_queue_cures_it() {
    assert!(prerolls(&siblings("queue max-size-time=0 max-size-buffers=0 max-size-bytes=0", ""), 60));
}

#[test]
fn a_short_first_window_cures_it() {
    assert!(prerolls(&siblings("queue", "startup=low-latency"), 60));
}

#[test]
fn a_seek_starts_anew_where_it_leads() {
    let pipeline = pipeline(&format!("{SOURCE} ! flashvsr startup=low-latency ! fakesink name=sink sync=false"));
    let times = Arc::new(Mutex::new(Vec::new()));
    let log = times.clone();
    let pad = pipeline.by_name("sink").unwrap().static_pad("sink").unwrap();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        log.lock().unwrap().push(info.buffer().unwrap().pts().unwrap());
        gst::PadProbeReturn::Ok
    });
    pipeline.set_state(gst::State::Paused).unwrap();
    pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
    times.lock().unwrap().clear();
    pipeline
        .seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, gst::ClockTime::from_mseconds(2000))
        .unwrap();
    run(&pipeline);
    let times = times.lock().unwrap();
    assert_eq!(times.first(), Some(&gst::ClockTime::from_mseconds(2000)));
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == gst::ClockTime::from_mseconds(100)), "{times:?}");
}

/// A rig whose first window takes long, and the thread that pushes the frame that completes it.
fn in_the_first_window() -> (gst::Element, gst::Pad, std::thread::JoinHandle<Result<gst::FlowSuccess, gst::FlowError>>)
{
    let mut rig = Rig::new(&[("scale", "8"), ("threads", "1")], SMALL);
    rig.push(0..24);
    let (element, sink) = (rig.element.clone(), rig.element.static_pad("sink").unwrap());
    let (sender, arrived) = mpsc::channel();
    sink.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        let _ = sender.send(());
        gst::PadProbeReturn::Ok
    });
    let pusher = std::thread::spawn(move || {
        let frame = rig.frame(24);
        let result = rig.harness.push(frame);
        drop(rig);
        result
    });
    arrived.recv().unwrap();
    // Well into the window: it takes seconds.
    std::thread::sleep(std::time::Duration::from_millis(50));
    (element, sink, pusher)
}

fn windows(element: &gst::Element) -> u64 {
    element.property::<gst::Structure>("stats").get("windows").unwrap()
}

#[test]
fn a_flush_interrupts_inference() {
    let (element, sink, pusher) = in_the_first_window();
    assert!(sink.send_event(gst::event::FlushStart::new()));
    assert_eq!(pusher.join().unwrap(), Err(gst::FlowError::Flushing));
    assert_eq!(windows(&element), 0, "the window has not been finished");
}

#[test]
fn a_state_change_interrupts_inference() {
    let (element, _sink, pusher) = in_the_first_window();
    element.set_state(gst::State::Null).unwrap();
    assert!(pusher.join().unwrap().is_err());
    assert_eq!(windows(&element), 0, "the window has not been finished");
}

#[test]
fn a_pipeline_stops_and_starts_again() {
    let pipeline = pipeline(&format!("{SOURCE} ! flashvsr ! fakesink name=sink sync=false"));
    let frames = count(&pipeline, "sink");
    for _ in 0..3 {
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.state(gst::ClockTime::from_seconds(60)).0.unwrap();
        pipeline.set_state(gst::State::Null).unwrap();
    }
    frames.store(0, Ordering::SeqCst);
    run(&pipeline);
    assert_eq!(frames.load(Ordering::SeqCst), 40);
}
