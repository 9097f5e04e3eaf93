// SPDX-License-Identifier: MPL-2.0

//! Sound: channels, codecs that outputs do not take, the first and the last packet, and whether it is in step.

use gst::prelude::*;
use gstreamer as gst;
use tempfile::TempDir;

use crate::rig::{assert_success, launch, said, streams, upscale};

const VIDEO: &str =
    "videotestsrc num-buffers=25 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! x264enc ! h264parse";

/// A film with a second of sound, encoded by `sound`.
fn film(dir: &TempDir, name: &str, mux: &str, sound: &str) {
    launch(
        dir,
        &format!(
            "{mux} name=mux ! filesink location=DIR/{name} {VIDEO} ! queue ! mux. audiotestsrc num-buffers=47 ! {sound} ! queue ! mux."
        ),
    );
}

/// Upscales a film, and returns what was said.
fn upscaled(dir: &TempDir, from: &str, to: &str) -> String {
    let output = upscale(&[from, to, "--startup", "low-latency", "--overwrite"], dir);
    assert_success(&output);
    said(&output).1
}

#[test]
fn channels_are_kept_or_mixed_down_aloud() {
    let dir = tempfile::tempdir().unwrap();
    for (channels, mask, kept) in [(4, "0x33", "4"), (6, "0x3f", "6"), (6, "0xc0f", "6"), (8, "0xc3f", "6")] {
        let raw = format!("audio/x-raw,rate=48000,channels={channels},channel-mask=(bitmask){mask}");
        // The container of raw sound has no place for the names of the channels.
        film(&dir, "in.mkv", "matroskamux", &format!("{raw},format=S16LE"));
        let notes = upscaled(&dir, "in.mkv", "out.mp4");
        let (_, audio) = streams(&dir, "out.mp4");
        assert_eq!(audio.len(), 1, "{channels} {mask}: {notes}");
        assert_eq!(audio[0].field("channels"), kept, "{channels} {mask}");
        assert_eq!(notes.contains("mixed down to 5.1"), channels == 8, "{notes}");

        // FLAC has no side channels.
        if mask == "0xc0f" {
            continue;
        }
        film(&dir, "in.mkv", "matroskamux", &format!("{raw} ! flacenc"));
        upscaled(&dir, "in.mkv", "out.mp4");
        assert_eq!(streams(&dir, "out.mp4").1[0].field("channels"), kept, "{channels} {mask}");
    }
}

#[test]
fn advice_is_given_only_where_it_helps() {
    let dir = tempfile::tempdir().unwrap();
    film(&dir, "in.mov", "qtmux", "audio/x-raw,rate=44100,channels=2 ! avenc_alac");
    let notes = upscaled(&dir, "in.mov", "out.mkv");
    assert!(notes.contains("as Opus") && !notes.contains(".mkv"), "{notes}");
    assert_eq!(streams(&dir, "out.mkv").1[0].caps.as_ref().unwrap().name(), "audio/x-opus");
    assert_eq!(upscaled(&dir, "in.mov", "out.mp4"), "");
}

#[test]
fn a_track_that_cannot_be_kept_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    film(
        &dir,
        "in.mkv",
        "matroskamux",
        "audio/x-raw,rate=48000,channels=2 ! avenc_tta ! queue ! mux. audiotestsrc num-buffers=47 ! avenc_aac",
    );
    let notes = upscaled(&dir, "in.mkv", "out.mp4");
    assert!(notes.contains("audio track 1 left out: "), "{notes}");
    let (video, audio) = streams(&dir, "out.mp4");
    assert_eq!((video.packets.len(), audio.len()), (25, 1));
}

#[test]
fn tracks_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    // The second is ready for the muxer long before the first, which is encoded anew.
    film(
        &dir,
        "in.mkv",
        "matroskamux",
        "audio/x-raw,rate=48000,channels=1 ! flacenc ! queue ! mux. \
         audiotestsrc num-buffers=47 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! queue ! mux. \
         audiotestsrc num-buffers=47 ! audio/x-raw,rate=32000,channels=1 ! avenc_ac3",
    );
    upscaled(&dir, "in.mkv", "out.mp4");
    let (_, audio) = streams(&dir, "out.mp4");
    let rates: Vec<String> =
        audio.iter().map(|track| format!("{}/{}", track.field("rate"), track.field("channels"))).collect();
    assert_eq!(rates, ["48000/1", "48000/2", "32000/1"]);
}

#[test]
fn every_packet_of_a_copied_track_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (codec, in_mp4) in [
        ("opusenc", true),
        ("avenc_aac", true),
        ("avenc_ac3", true),
        ("lamemp3enc", true),
        ("avenc_eac3", false),
        ("flacenc", false),
        ("vorbisenc", false),
        ("capsfilter caps=audio/x-raw,format=S16LE", false),
    ] {
        film(&dir, "in.mkv", "matroskamux", &format!("audio/x-raw,rate=48000,channels=2 ! {codec}"));
        let (_, before) = streams(&dir, "in.mkv");
        for name in if in_mp4 { ["out.mkv", "out.mp4"].as_slice() } else { &["out.mkv"] } {
            upscaled(&dir, "in.mkv", name);
            let (_, after) = streams(&dir, name);
            assert_eq!(after[0].bytes(), before[0].bytes(), "{codec} in {name}");
        }
    }
    film(&dir, "in.mov", "qtmux", "audio/x-raw,rate=48000,channels=2 ! avenc_alac");
    upscaled(&dir, "in.mov", "out.mp4");
    assert_eq!(streams(&dir, "out.mp4").1[0].bytes(), streams(&dir, "in.mov").1[0].bytes(), "ALAC");
}

/// The running time, in milliseconds, at which the sound of a file gets loud.
fn onset(dir: &TempDir, name: &str) -> u64 {
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={}/{name} ! decodebin name=d d. ! audioconvert ! audioresample \
         ! audio/x-raw,format=S16LE,rate=48000,channels=1 ! appsink name=s sync=false",
        dir.path().display()
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let sink = pipeline.by_name("s").unwrap().downcast::<gstreamer_app::AppSink>().unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();
    let onset = loop {
        let sample = sink.pull_sample().expect("the sound gets loud");
        let segment = sample.segment().unwrap().downcast_ref::<gst::ClockTime>().unwrap();
        let buffer = sample.buffer().unwrap();
        let start = segment.to_running_time(buffer.pts()).unwrap();
        let bytes = buffer.map_readable().unwrap();
        let loud = bytes.chunks_exact(2).position(|pair| i16::from_le_bytes([pair[0], pair[1]]).unsigned_abs() > 4000);
        if let Some(at) = loud {
            break start.mseconds() + at as u64 / 48;
        }
    };
    pipeline.set_state(gst::State::Null).unwrap();
    onset
}

#[test]
fn sound_is_in_step_whether_copied_or_encoded_anew() {
    let dir = tempfile::tempdir().unwrap();
    // Half a second of silence, then a tone.
    let sample = |at: usize| if at < 24_000 { 0 } else { (20_000.0 * (at as f64 * 0.06).sin()) as i16 };
    let samples: Vec<u8> = (0..48_000).flat_map(|at| [sample(at).to_le_bytes(); 2].concat()).collect();
    std::fs::write(dir.path().join("tone.raw"), samples).unwrap();
    for codec in ["flacenc", "opusenc", "avenc_aac"] {
        launch(
            &dir,
            &format!(
                "matroskamux name=mux ! filesink location=DIR/in.mkv {VIDEO} ! queue ! mux. \
                 filesrc location=DIR/tone.raw ! rawaudioparse sample-rate=48000 num-channels=2 ! audioconvert ! {codec} ! queue ! mux."
            ),
        );
        let before = onset(&dir, "in.mkv");
        for name in ["out.mkv", "out.mp4"] {
            upscaled(&dir, "in.mkv", name);
            let after = onset(&dir, name);
            assert!(after.abs_diff(before) <= 3, "{codec} in {name}: {before} ms, then {after} ms");
        }
    }
}
