// SPDX-License-Identifier: MPL-2.0

//! Interlaced video is refused in words that name the cure, whatever stands before the element.

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::pipeline::{count, pipeline, run};
use crate::rig::{Rig, SMALL};

/// The errors of the `flashvsr` of a pipeline until it stops, the first error of all being one of them.
fn errors(description: &str) -> Vec<gst::glib::Error> {
    let pipeline = pipeline(description);
    let bus = pipeline.bus().unwrap();
    // Where negotiation fails at once, so does this; then there is an error as well.
    let _ = pipeline.set_state(gst::State::Playing);
    let ends = [gst::MessageType::Eos, gst::MessageType::Error];
    let mut wait = gst::ClockTime::from_seconds(60);
    let mut errors = Vec::new();
    while let Some(message) = bus.timed_pop_filtered(wait, &ends) {
        let gst::MessageView::Error(error) = message.view() else { panic!("{description}: no error") };
        let ours = message.src().is_some_and(|source| source.type_().name() == "GstFlashVsr");
        assert!(ours || !errors.is_empty(), "{description}: {} {:?}", error.error(), error.debug());
        if ours {
            errors.push(error.error());
        }
        wait = gst::ClockTime::from_mseconds(100);
    }
    pipeline.set_state(gst::State::Null).unwrap();
    errors
}

const SIZE: &str = "format=I420,width=64,height=48,framerate=10/1";

#[track_caller]
fn is_refused(description: &str) {
    let errors = errors(description);
    assert_eq!(errors.len(), 1, "{description}: {errors:?}");
    for error in errors {
        assert!(error.matches(gst::StreamError::WrongType), "{description}: {error}");
        assert!(error.to_string().contains("add deinterlace before flashvsr"), "{description}: {error}");
    }
}

/// What may stand between a source and the element.
const FRONTS: [&str; 6] = [
    "",
    "videoconvert !",
    "queue ! videoconvert ! queue !",
    "videoconvertscale !",
    "videorate ! videoscale !",
    "tee !",
];

#[test]
fn raw_video_of_every_mode() {
    for mode in ["interleaved", "mixed", "fields"] {
        let source = format!("videotestsrc num-buffers=3 ! video/x-raw,{SIZE},interlace-mode={mode}");
        for front in FRONTS {
            for behind in ["", "! videoconvert ! x264enc", "! video/x-raw,interlace-mode=progressive"] {
                is_refused(&format!("{source} ! {front} flashvsr {behind} ! fakesink"));
            }
        }
    }
}

#[test]
fn fields_in_buffers_of_their_own() {
    let source = format!("videotestsrc num-buffers=6 ! video/x-raw,{SIZE} ! interlace field-pattern=1:1");
    let alternate = "video/x-raw(format:Interlaced),interlace-mode=alternate";
    for front in FRONTS {
        is_refused(&format!("{source} ! {alternate} ! {front} flashvsr ! fakesink"));
    }
}

/// An interlaced H.264 stream, decoded.
const DECODED: &str = "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=64,height=48,framerate=10/1,\
                       interlace-mode=interleaved,field-order=top-field-first \
                       ! x264enc interlaced=true key-int-max=5 ! h264parse ! decodebin";

#[test]
fn decoded_video() {
    for front in FRONTS {
        is_refused(&format!("{DECODED} ! {front} flashvsr ! fakesink"));
    }
}

#[test]
fn deinterlace_is_the_cure() {
    for front in ["deinterlace !", "videoconvert ! deinterlace !", "deinterlace ! videoconvert !"] {
        let pipeline = pipeline(&format!("{DECODED} ! {front} flashvsr ! fakesink name=sink"));
        let frames = count(&pipeline, "sink");
        run(&pipeline);
        // Each of its fields becomes a frame.
        assert_eq!(frames.load(std::sync::atomic::Ordering::SeqCst), 40, "{front}");
    }
}

#[test]
fn a_source_that_can_do_both_is_asked_for_progressive_video() {
    let both = "interlace-mode={ (string)interleaved, (string)progressive }";
    for front in FRONTS {
        let source = format!("videotestsrc num-buffers=3 ! capsfilter caps=\"video/x-raw,{SIZE},{both}\"");
        let pipeline = pipeline(&format!("{source} ! {front} flashvsr ! fakesink name=sink"));
        let frames = count(&pipeline, "sink");
        run(&pipeline);
        assert_eq!(frames.load(std::sync::atomic::Ordering::SeqCst), 3, "{front}");
    }
}

#[test]
fn frames_before_the_change_come_out() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..5);
    let caps: gst::Caps = format!("{SMALL},interlace-mode=interleaved").parse().unwrap();
    rig.harness.push_event(gst::event::Caps::new(&caps));
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("add deinterlace before flashvsr"), "{errors:?}");
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4]);
    assert_eq!(rig.harness.push(rig.frame(5)), Err(gst::FlowError::NotNegotiated));
    assert_eq!(rig.errors(), Vec::<String>::new(), "said once");
}

#[test]
fn a_mode_that_nobody_knows_is_not_called_interlaced() {
    let mut rig = Rig::new(&[], SMALL);
    let caps: gst::Caps = format!("{SMALL},interlace-mode=foo").parse().unwrap();
    rig.harness.push_event(gst::event::Caps::new(&caps));
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("interlace-mode is foo, which is not known"), "{errors:?}");
}

#[test]
fn what_comes_out_is_progressive() {
    let rig = Rig::new(&[], SMALL);
    let source = rig.element.static_pad("src").unwrap();
    let mode = |caps: &gst::Caps| caps.structure(0).unwrap().get::<String>("interlace-mode").unwrap();
    assert_eq!(mode(&source.current_caps().unwrap()), "progressive");
    for caps in [source.query_caps(None), source.pad_template_caps()] {
        assert!(!caps.can_intersect(&"video/x-raw,interlace-mode=interleaved".parse::<gst::Caps>().unwrap()), "{caps}");
    }
}
