// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;

use crate::rig::{Rig, SMALL, element};

/// The error with which the element refuses to start.
fn refusal(element: &gst::Element) -> (gst::glib::Error, String) {
    let bus = gst::Bus::new();
    element.set_bus(Some(&bus));
    assert!(element.set_state(gst::State::Paused).is_err());
    let message = bus.pop_filtered(&[gst::MessageType::Error]).expect("an error message");
    element.set_state(gst::State::Null).unwrap();
    match message.view() {
        gst::MessageView::Error(error) => (error.error(), error.error().to_string()),
        _ => unreachable!(),
    }
}

#[test]
fn a_missing_model_is_named_with_the_cure() {
    let (error, text) = refusal(&element(&[("model", "/nowhere/at/all")]));
    assert!(error.matches(gst::ResourceError::NotFound), "{text}");
    assert!(text.contains("/nowhere/at/all") && text.contains("TCDecoder.ckpt"), "{text}");
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let (error, text) = refusal(&element(&[("device", "cuda:99")]));
    assert!(error.matches(gst::ResourceError::Failed), "{text}");
    assert!(text.contains("cuda:99") && text.contains("device=cpu"), "{text}");
}

#[test]
fn an_element_starts_after_its_error_is_cured() {
    let element = element(&[("device", "cuda:99")]);
    refusal(&element);
    element.set_property("device", "cpu");
    element.set_state(gst::State::Paused).unwrap();
    let stats: gst::Structure = element.property("stats");
    assert!(stats.get::<String>("device").unwrap().starts_with("CPU"));
    element.set_state(gst::State::Null).unwrap();
}

#[test]
fn interlaced_video_is_refused_with_the_cure() {
    let mut rig = Rig::new(&[], SMALL);
    let caps: gst::Caps = format!("{SMALL},interlace-mode=interleaved").parse().unwrap();
    rig.harness.push_event(gst::event::Caps::new(&caps));
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("add deinterlace before flashvsr"), "{errors:?}");
    assert_eq!(rig.harness.push(rig.frame(0)), Err(gst::FlowError::NotNegotiated));
    let allowed = rig.element.static_pad("sink").unwrap().query_caps(None);
    assert!(!allowed.can_intersect(&caps), "{allowed}");
}

#[test]
fn a_size_that_no_factor_reaches_is_refused_with_the_cure() {
    let mut rig = Rig::new(&[], SMALL);
    rig.harness.set_sink_caps_str("video/x-raw,width=32,height=32");
    rig.harness.push_event(gst::event::Caps::new(&SMALL.replace("width=64", "width=66").parse().unwrap()));
    let errors = rig.errors();
    assert!(errors.iter().any(|error| error.contains("videoconvertscale")), "{errors:?}");
}

#[test]
fn size_policy_fail_refuses_with_the_cure() {
    let rig = Rig::new(&[("size-policy", "fail")], &SMALL.replace("width=64", "width=60"));
    let errors = rig.errors();
    assert!(errors.iter().any(|error| error.contains("120x128") && error.contains("size-policy=pad")), "{errors:?}");
}

#[test]
fn a_buffer_that_holds_no_frame_is_an_error() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..1);
    assert_eq!(rig.harness.push(gst::Buffer::with_size(10).unwrap()), Err(gst::FlowError::Error));
    assert!(rig.errors()[0].contains("negotiated caps"));
}
