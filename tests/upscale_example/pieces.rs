// SPDX-License-Identifier: MPL-2.0

//! A piece of the input, and a size in pixels.

use crate::rig::{Stream, assert_success, clip, complaint, launch, size, streams, upscale};

/// Times in microseconds may be rounded to a tick of 44.1 kHz.
const TICK: u64 = 23;

/// The packets of a stream between two times, in the order of their times.
fn between(stream: &Stream, from: u64, to: u64) -> Stream {
    let mut part = stream.clone();
    part.packets.retain(|(time, _)| (from..to).contains(time));
    part
}

/// Makes sure that the times are the same, but for roundings, counted from the first frame of the video.
fn assert_times(found: (&Stream, &Stream), expected: (&Stream, &Stream), rounding: u64) {
    let counted = |(video, stream): (&Stream, &Stream)| -> Vec<i64> {
        stream.times().iter().map(|time| *time as i64 - video.times()[0] as i64).collect()
    };
    let (found, expected) = (counted(found), counted(expected));
    let near = found.iter().zip(&expected).all(|(found, expected)| found.abs_diff(*expected) <= rounding);
    assert!(found.len() == expected.len() && near, "{found:?}, not {expected:?}");
}

#[test]
fn a_piece_has_its_frames_and_its_sound() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 60, "I420");
    let args = ["in.mp4", "out.mp4", "--start", "0.5", "--duration", "0:00.75", "--startup", "low-latency"];
    let output = upscale(&args, &dir);
    assert_success(&output);
    let (before, sound_before) = streams(&dir, "in.mp4");
    let (after, sound_after) = streams(&dir, "out.mp4");
    let piece = between(&before, 500_000, 1_250_000);
    assert_eq!(piece.packets.len(), 23, "from frame 15, at 0.5005 s, to frame 37, at 1.2346 s");
    assert_times((&after, &after), (&piece, &piece), 0);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("23 frames in, 23 frames out"));
    for (after_sound, before) in sound_after.iter().zip(&sound_before) {
        let expected = between(before, 500_000, 1_250_000);
        assert!(expected.packets.len() > 25);
        assert!(after_sound.bytes() == expected.bytes(), "other packets of sound");
        assert_times((&after, after_sound), (&piece, &expected), TICK);
    }
}

#[test]
fn a_piece_far_inside_is_found_in_every_container() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 840, "I420");
    let queue = "queue max-size-time=0 max-size-buffers=0 max-size-bytes=0";
    for (name, muxer, parser) in [("in.mkv", "matroskamux", "h264parse"), ("in.ts", "mpegtsmux", "h264parse")] {
        let description = format!(
            "filesrc location=DIR/in.mp4 ! qtdemux name=demux {muxer} name=mux ! filesink location=DIR/{name} \
             demux.video_0 ! {queue} ! {parser} ! mux. demux.audio_0 ! {queue} ! aacparse ! mux."
        );
        launch(&dir, &description);
    }
    for name in ["in.mp4", "in.mkv", "in.ts"] {
        let (before, sound_before) = streams(&dir, name);
        let piece = between(&before, 24_500_000, 25_000_000);
        assert_eq!(piece.packets.len(), 15);
        let piece_sound = between(&sound_before[0], 24_500_000, 25_000_000);
        let args = [name, "out.mkv", "--overwrite", "--start", "24.5", "--duration", ".5", "--startup", "low-latency"];
        assert_success(&upscale(&args, &dir));
        let (after, sound) = streams(&dir, "out.mkv");
        // Milliseconds in Matroska.
        assert_times((&after, &after), (&piece, &piece), 1000);
        // The packets of MPEG-TS have headers, which Matroska takes off.
        let same = name == "in.ts" || sound[0].bytes() == piece_sound.bytes();
        assert!(same, "{name}: other packets of sound");
        assert_times((&after, &sound[0]), (&piece, &piece_sound), 1000);
    }
}

#[test]
fn a_piece_beyond_the_end_is_named() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 30, "I420");
    let said = complaint(&["in.mp4", "out.mp4", "--start", "1:30"], &dir);
    assert!(said.contains("\"in.mp4\" has no frames") && said.contains("01:30") && said.contains("--start"), "{said}");
    assert!(!dir.path().join("out.mp4").exists());
}

#[test]
fn a_size_in_pixels_keeps_the_shape() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 9, "I420");
    for (options, right) in [
        (&["--height", "72"][..], size(96, 72)),
        (&["--width", "320"], size(320, 240)),
        (&["--width", "1000", "--height", "100"], size(132, 100)),
    ] {
        let args = [&["in.mp4", "out.mp4", "--overwrite", "--startup", "low-latency"], options].concat();
        assert_success(&upscale(&args, &dir));
        assert_eq!(streams(&dir, "out.mp4").0.size(), right, "{options:?}");
    }
    let said = complaint(&["in.mp4", "small.mp4", "--height", "47"], &dir);
    assert!(said.contains("64x48") && said.contains("--height 48 to 384"), "{said}");
}

#[test]
fn the_size_of_the_input_is_kept_to_the_next_even_one() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "videotestsrc num-buffers=9 ! video/x-raw,format=Y444,width=53,height=37,framerate=25/1 ! x264enc ! h264parse \
         ! mp4mux ! filesink location=DIR/odd.mp4",
    );
    assert_success(&upscale(&["odd.mp4", "out.mp4", "--scale", "1", "--preset", "ultrafast"], &dir));
    assert_eq!(streams(&dir, "out.mp4").0.size(), size(54, 38));
}
