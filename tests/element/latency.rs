// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::pipeline::{SOURCE, pipeline};
use crate::rig::{FRAME, Rig, SMALL};

/// The latency messages of the element in the rig.
fn messages(rig: &Rig) -> usize {
    std::iter::from_fn(|| rig.bus.pop_filtered(&[gst::MessageType::Latency])).count()
}

/// Runs to EOS, and counts the latency messages of the `flashvsr` in a pipeline.
fn messages_until_eos(description: &str) -> usize {
    let pipeline = pipeline(description);
    let ours = pipeline.by_name("upscaler").unwrap();
    let bus = pipeline.bus().unwrap();
    let types = [gst::MessageType::Latency, gst::MessageType::Eos, gst::MessageType::Error];
    pipeline.set_state(gst::State::Playing).unwrap();
    let mut count = 0;
    loop {
        let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(120), &types).expect("an end");
        match message.view() {
            gst::MessageView::Latency(_) if message.src() == Some(ours.upcast_ref()) => count += 1,
            // What a program does, and what the messages are for.
            gst::MessageView::Latency(_) => pipeline.recalculate_latency().unwrap(),
            gst::MessageView::Eos(_) => break,
            _ => panic!("{message:?}"),
        }
    }
    pipeline.set_state(gst::State::Null).unwrap();
    count
}

#[test]
fn the_first_announcement_holds_the_windows_and_one_window_of_computing() {
    // Frame 0 waits for frame 24; or frame 5, the first of the second window, for frame 16. A window is 8 frames.
    for (startup, frames) in [("reference", 24 + 8), ("low-latency", 11 + 8)] {
        let mut rig = Rig::new(&[("startup", startup)], SMALL);
        assert_eq!(messages(&rig), 1, "{startup}");
        rig.harness.set_upstream_latency(gst::ClockTime::from_mseconds(7));
        assert_eq!(rig.harness.query_latency(), Some(FRAME * frames + gst::ClockTime::from_mseconds(7)));
        rig.set_caps(&SMALL.replace("width=64", "width=60"));
        assert_eq!(messages(&rig), 0, "unchanged");
        rig.set_caps(&SMALL.replace("25/1", "0/1"));
        assert_eq!(messages(&rig), 1);
        assert_eq!(rig.harness.query_latency(), Some(gst::ClockTime::from_mseconds(7)), "a variable rate has none");
    }
}

#[test]
fn the_latency_grows_by_whole_windows_if_at_all() {
    // Frames that come so fast that no machine could keep up.
    let caps = SMALL.replace("25/1", "25000/1");
    let frame = gst::ClockTime::SECOND.nseconds() / 25_000;
    for (startup, waiting, most) in [("reference", 24, 3), ("low-latency", 11, 1)] {
        let mut rig = Rig::new(&[("startup", startup)], &caps);
        let mut sum = messages(&rig);
        for window in 0..4 {
            rig.push(8 * window..8 * (window + 1));
            sum += messages(&rig);
            let now = rig.harness.query_latency().unwrap().nseconds() / frame - waiting;
            assert!(now.is_multiple_of(8) && (1..=most).contains(&(now / 8)), "{startup}: {now}");
        }
        assert_eq!(rig.harness.query_latency().unwrap().nseconds(), (waiting + 8 * most) * frame, "{startup}");
        assert!(sum as u64 <= most, "{startup}: {sum} messages");
    }
}

#[test]
fn a_variable_rate_stays_without_latency() {
    let mut rig = Rig::new(&[("startup", "low-latency")], &SMALL.replace("25/1", "0/1"));
    rig.push(0..17);
    assert_eq!(rig.harness.query_latency(), Some(gst::ClockTime::ZERO));
    assert_eq!(messages(&rig), 0);
}

#[test]
fn a_file_posts_no_latency_messages_however_slow_it_is() {
    let source = SOURCE.replace("10/1", "25000/1");
    let description = format!("{source} ! queue ! flashvsr name=upscaler ! fakesink sync=false");
    assert_eq!(messages_until_eos(&description), 0);
}

#[test]
fn a_live_source_posts_few_latency_messages() {
    let source = SOURCE.replace("videotestsrc", "videotestsrc is-live=true").replace("10/1", "200/1");
    for (startup, most) in [("reference", 3), ("low-latency", 1)] {
        let description = format!("{source} ! queue ! flashvsr name=upscaler startup={startup} ! fakesink");
        let count = messages_until_eos(&description);
        assert!((1..=most).contains(&count), "{startup}: {count}");
    }
}
