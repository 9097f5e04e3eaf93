// SPDX-License-Identifier: MPL-2.0

//! The frame schedule: every frame that goes in comes out, once and in order.

use gstflashvsr::schedule::{LOOK_AHEAD, Schedule, Startup};
use proptest::prelude::*;

const STARTUPS: [Startup; 2] = [Startup::Reference, Startup::LowLatency];

/// The promises for `frames` frames.
fn check(startup: Startup, frames: u64) {
    let schedule = Schedule::new(startup);
    let padding = schedule.padding(frames);
    let total = frames + padding;
    let windows = schedule.windows_complete(total);

    // Frames go in once and in order, and so do they come out, some frames behind.
    let (mut projected, mut shown, mut latents) = (0, 0, 0);
    for index in 0..windows {
        let window = schedule.window(index);
        assert_eq!(window.index, index);
        assert_eq!(window.lq_frames.start, projected, "{window:?}");
        assert_eq!(window.output_frames.start, shown, "{window:?}");
        assert_eq!(window.first_latent, latents, "{window:?}");
        assert_eq!(window.output_frames.end + LOOK_AHEAD, window.lq_frames.end, "{window:?}");
        assert_eq!(window.lq_frames.end, schedule.frames_needed(index));
        projected = window.lq_frames.end;
        shown = window.output_frames.end;
        latents += window.latents;
        // The first latent frame stands for one frame, every other for four.
        assert_eq!(shown, 4 * latents - 3);
    }
    assert_eq!(projected, if windows == 0 { 0 } else { total }, "no frame is left over");
    assert!(shown >= frames, "{shown} of {frames} frames come out");

    // A frame less of padding would lose a window, and with it frames.
    if frames == 0 {
        assert_eq!(padding, 0);
    } else {
        let fewer = schedule.windows_complete(total - 1);
        assert_eq!(fewer, windows - 1);
        let shown_before = if fewer == 0 { 0 } else { schedule.window(fewer - 1).output_frames.end };
        assert!(shown_before < frames, "{padding} frames of padding are more than {frames} frames need");
    }
}

#[test]
fn every_frame_is_shown_once_for_every_short_stream() {
    for startup in STARTUPS {
        for frames in 0..=130 {
            check(startup, frames);
        }
    }
}

#[test]
fn a_window_is_complete_exactly_when_its_frames_are_there() {
    for startup in STARTUPS {
        let schedule = Schedule::new(startup);
        for frames in 0..=300 {
            let complete = schedule.windows_complete(frames);
            assert!(complete == 0 || schedule.frames_needed(complete - 1) <= frames);
            assert!(schedule.frames_needed(complete) > frames);
        }
    }
}

#[test]
fn the_first_window_is_25_or_9_frames() {
    assert_eq!(Schedule::new(Startup::Reference).frames_needed(0), 25);
    assert_eq!(Schedule::new(Startup::Reference).window(0).output_frames, 0..21);
    assert_eq!(Schedule::new(Startup::LowLatency).frames_needed(0), 9);
    assert_eq!(Schedule::new(Startup::LowLatency).window(0).output_frames, 0..5);
}

#[test]
fn the_reference_counts_are_ours_where_it_loses_no_frame() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/preprocess.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let counts = tensors.tensor("E.frame_counts").unwrap();
    let numbers: Vec<u64> = counts.data().as_chunks::<8>().0.iter().map(|&bytes| u64::from_le_bytes(bytes)).collect();
    let (rows, _) = numbers.as_chunks::<4>();
    assert!(rows.len() > 60);
    let schedule = Schedule::new(Startup::Reference);
    let mut compared = 0;
    for &[frames, padded, windows, shown] in rows {
        // Elsewhere it drops the frames that do not fill a window.
        if frames == shown {
            assert_eq!(frames + schedule.padding(frames), padded, "{frames}");
            assert_eq!(schedule.windows_complete(padded), windows, "{frames}");
            assert_eq!(schedule.window(windows - 1).output_frames.end, shown, "{frames}");
            compared += 1;
        }
        if frames % 8 == 5 && frames >= 21 {
            assert_eq!(frames, shown);
        }
    }
    assert!(compared >= 5, "only {compared} rows compared");
}

proptest! {
    #[test]
    fn every_frame_is_shown_once(frames in 0u64..20_000, low_latency: bool) {
        check(STARTUPS[usize::from(low_latency)], frames);
    }

    #[test]
    fn long_streams_need_at_most_a_window_of_padding(frames in 21u64..u64::MAX / 16) {
        for startup in STARTUPS {
            let padding = Schedule::new(startup).padding(frames);
            prop_assert!((LOOK_AHEAD..LOOK_AHEAD + 8).contains(&padding));
        }
    }
}
