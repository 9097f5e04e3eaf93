// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::pool::offer_pool;
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
fn a_size_that_no_factor_reaches_is_refused_with_the_cure() {
    let mut rig = Rig::new(&[], SMALL);
    rig.push(0..2);
    rig.harness.set_sink_caps_str("video/x-raw,width=32,height=32");
    rig.harness.push_event(gst::event::Caps::new(&SMALL.replace("width=64", "width=66").parse().unwrap()));
    let errors = rig.errors();
    assert!(errors.iter().any(|error| error.contains("videoconvertscale")), "{errors:?}");
    assert_eq!(rig.output().len(), 2, "the frames before it");
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

/// A video meta for the 64x64 pixels of [`SMALL`], with this stride.
fn lie(buffer: &mut gst::BufferRef, (width, height): (u32, u32), stride: i32) {
    let (format, flags) = (gst_video::VideoFormat::Gray8, gst_video::VideoFrameFlags::empty());
    gst_video::VideoMeta::add_full(buffer, flags, format, width, height, &[0], &[stride]).unwrap();
}

#[test]
fn a_stride_that_leads_out_of_the_buffer_is_an_error() {
    for stride in [65, 100, 100_000_000, -64] {
        let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
        let mut frame = rig.frame(0);
        lie(frame.make_mut(), (64, 64), stride);
        assert_eq!(rig.harness.push(frame), Err(gst::FlowError::Error), "{stride}");
        let errors = rig.errors();
        assert!(errors.len() == 1 && errors[0].contains(&format!("{stride} bytes apart")), "{errors:?}");
    }
}

#[test]
fn nothing_is_written_beyond_a_buffer_of_downstream() {
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    offer_pool(&rig, |buffer| lie(buffer, (120, 128), 100_000_000));
    rig.set_caps(&SMALL.replace("width=64", "width=60"));
    rig.push(0..1);
    rig.eos();
    let errors = rig.errors();
    assert!(errors.len() == 1 && errors[0].contains("100000000 bytes apart"), "{errors:?}");
}

#[test]
fn a_frame_in_a_larger_one_is_its_top_left_part() {
    let mut rig = Rig::new(&[("startup", "low-latency")], &SMALL.replace("GRAY8", "I420"));
    let mut buffer = gst::Buffer::with_size(100 * 80 * 3 / 2).unwrap();
    buffer.make_mut().map_writable().unwrap().fill(90);
    let (format, flags) = (gst_video::VideoFormat::I420, gst_video::VideoFrameFlags::empty());
    let (offsets, strides) = ([0, 8000, 10000], [100, 50, 50]);
    gst_video::VideoMeta::add_full(buffer.make_mut(), flags, format, 100, 80, &offsets, &strides).unwrap();
    rig.harness.push(buffer).unwrap();
    rig.eos();
    assert_eq!(rig.output().len(), 1, "{:?}", rig.errors());
}
