// SPDX-License-Identifier: MPL-2.0

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::rig::{FRAME, Rig, SMALL};

fn caption(i: usize) -> [u8; 3] {
    [0xfc, i as u8, i as u8 + 1]
}

#[test]
fn captions_timecodes_and_reference_timestamps_stay_with_their_frame() {
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    let reference: gst::Caps = "timestamp/x-unix".parse().unwrap();
    for i in 0..14 {
        let mut buffer = rig.frame(i);
        {
            let buffer = buffer.make_mut();
            gst_video::VideoCaptionMeta::add(buffer, gst_video::VideoCaptionType::Cea708Raw, &caption(i));
            let time = gst_video::VideoTimeCode::new(
                gst::Fraction::new(25, 1),
                None,
                gst_video::VideoTimeCodeFlags::empty(),
                1,
                2,
                3,
                i as u32,
                0,
            );
            gst_video::VideoTimeCodeMeta::add(buffer, &time.try_into().unwrap());
            gst::ReferenceTimestampMeta::add(buffer, &reference, FRAME * i as u64, gst::ClockTime::NONE);
        }
        rig.harness.push(buffer).unwrap();
    }
    rig.eos();
    let output = rig.output();
    assert_eq!(output.len(), 14);
    for (i, buffer) in output.iter().enumerate() {
        assert_eq!(buffer.meta::<gst_video::VideoCaptionMeta>().unwrap().data(), caption(i));
        assert_eq!(buffer.meta::<gst_video::VideoTimeCodeMeta>().unwrap().tc().frames(), i as u32);
        let reference = buffer.meta::<gst::ReferenceTimestampMeta>().unwrap();
        assert_eq!(reference.timestamp(), FRAME * i as u64);
    }
}

#[test]
fn regions_of_interest_are_scaled() {
    let mut rig = Rig::new(&[("startup", "low-latency"), ("scale", "3")], SMALL);
    let mut buffer = rig.frame(0);
    {
        let mut region = gst_video::VideoRegionOfInterestMeta::add(buffer.make_mut(), "face", (10, 20, 30, 44));
        region.set_id(7);
        region.add_param(gst::Structure::builder("roi/x").field("delta-qp", 3).build());
    }
    rig.harness.push(buffer).unwrap();
    rig.eos();
    let output = rig.output();
    let region = output[0].meta::<gst_video::VideoRegionOfInterestMeta>().unwrap();
    assert_eq!(region.rect(), (30, 60, 90, 132));
    assert_eq!((region.roi_type(), region.id()), ("face", 7));
    assert_eq!(region.param("roi/x").unwrap().get("delta-qp"), Ok(3));
    assert_eq!(output[0].iter_meta::<gst_video::VideoRegionOfInterestMeta>().count(), 1);
}

#[test]
fn a_pool_of_one_buffer_feeds_the_longest_window() {
    let mut rig = Rig::new(&[], SMALL);
    let pool = gst::BufferPool::new();
    let mut config = pool.config();
    let caps: gst::Caps = SMALL.parse().unwrap();
    config.set_params(Some(&caps), 64 * 64, 1, 1);
    pool.set_config(config).unwrap();
    pool.set_active(true).unwrap();
    let at_once = gst::BufferPoolAcquireParams::with_flags(gst::BufferPoolAcquireFlags::DONTWAIT);
    for i in 0..24 {
        let buffer = pool.acquire_buffer(Some(&at_once)).unwrap_or_else(|_| panic!("frame {i} is held by its buffer"));
        rig.harness.push(buffer).unwrap();
    }
    pool.set_active(false).unwrap();
}

#[test]
fn output_buffers_come_from_the_pool_of_downstream() {
    let mut rig = Rig::new(&[("startup", "low-latency")], SMALL);
    let pool = gst_video::VideoBufferPool::new();
    let offered = pool.clone();
    let pad = rig.element.static_pad("src").unwrap();
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM | gst::PadProbeType::PUSH, move |_, info| {
        let Some(query) = info.query_mut() else { return gst::PadProbeReturn::Ok };
        let gst::QueryViewMut::Allocation(query) = query.view_mut() else { return gst::PadProbeReturn::Ok };
        let size = gst_video::VideoInfo::from_caps(query.get().0.unwrap()).unwrap().size() as u32;
        query.add_allocation_pool(Some(&offered), size, 2, 0);
        gst::PadProbeReturn::Handled
    });
    // New caps ask again.
    rig.set_caps(&SMALL.replace("width=64", "width=60"));
    rig.push(0..9);
    rig.eos();
    let output = rig.output();
    assert_eq!(output.len(), 9);
    for buffer in output {
        // SAFETY: the buffer lives, and its pool is only compared.
        let own: *mut gst::ffi::GstBufferPool = unsafe { (*buffer.as_ptr()).pool };
        assert_eq!(own, pool.upcast_ref::<gst::BufferPool>().as_ptr());
    }
}
