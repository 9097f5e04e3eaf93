// SPDX-License-Identifier: MPL-2.0

//! What becomes of the frames and of the sound.

use gst::prelude::*;
use gstreamer as gst;

use crate::rig::{Stream, assert_success, clip, launch, play, size, streams, upscale};

#[test]
fn every_frame_comes_out_at_its_time_and_the_sound_is_untouched() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 30, "I420");
    let output = upscale(&["in.mp4", "out.mp4"], &dir);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.starts_with("30 frames in, 30 frames out, 64x48 to 128x96"), "{said}");
    assert!(said.trim_end().ends_with("2 audio tracks copied"), "{said}");

    let (video_in, audio_in) = streams(&dir, "in.mp4");
    let (video_out, audio_out) = streams(&dir, "out.mp4");
    assert_eq!(video_in.packets.len(), 30);
    assert_eq!(video_out.times(), video_in.times());
    assert_eq!(video_out.size(), size(128, 96));
    for field in ["pixel-aspect-ratio", "framerate"] {
        assert_eq!(video_out.field(field), video_in.field(field), "{field}");
    }
    assert_eq!(video_out.field("colorimetry"), "bt709");
    assert_eq!(audio_out.len(), 2);
    for (out, before) in audio_out.iter().zip(&audio_in) {
        assert!(before.packets.len() > 30);
        assert_eq!(out.bytes(), before.bytes());
        assert_eq!(out.times(), before.times());
    }
}

#[test]
fn matroska_takes_ten_bits_and_h265() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 12, "I420_10LE");
    let args = ["in.mp4", "out.mkv", "--codec", "h265", "--startup", "low-latency", "--scale", "1.5"];
    assert_success(&upscale(&args, &dir));
    let (video, audio) = streams(&dir, "out.mkv");
    assert_eq!(video.caps.as_ref().unwrap().name(), "video/x-h265");
    assert_eq!(video.packets.len(), 12);
    assert_eq!(video.field("bit-depth-luma"), "10");
    assert_eq!(video.size(), size(96, 72));
    let (_, before) = streams(&dir, "in.mp4");
    assert_eq!(audio[0].bytes(), before[0].bytes());
}

#[test]
fn variable_frame_rates_survive() {
    let dir = tempfile::tempdir().unwrap();
    // Of every four frames of a steady clip one is missing.
    gst::init().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc num-buffers=16 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! identity name=drop \
         ! x264enc bframes=0 ! h264parse ! matroskamux ! filesink location={}/in.mkv",
        dir.path().display()
    ))
    .unwrap();
    let drop = pipeline.downcast_ref::<gst::Bin>().unwrap().by_name("drop").unwrap();
    drop.static_pad("src").unwrap().add_probe(gst::PadProbeType::BUFFER, |_, info| {
        let time = info.buffer().unwrap().pts().unwrap();
        if time.mseconds() % 160 == 80 { gst::PadProbeReturn::Drop } else { gst::PadProbeReturn::Ok }
    });
    play(&pipeline);

    assert_success(&upscale(&["in.mkv", "out.mp4", "--startup", "low-latency"], &dir));
    let (before, _) = streams(&dir, "in.mkv");
    let (after, _) = streams(&dir, "out.mp4");
    assert_eq!(before.packets.len(), 12);
    let milliseconds =
        |stream: &Stream| -> Vec<u64> { stream.times().iter().map(|time| (time + 500) / 1000).collect() };
    assert_eq!(milliseconds(&after), milliseconds(&before));
}

#[test]
fn a_comparison_is_twice_as_wide() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 10, "I420");
    assert_success(&upscale(&["in.mp4", "out.mov", "--compare", "--startup", "low-latency"], &dir));
    let (before, _) = streams(&dir, "in.mp4");
    let (video, audio) = streams(&dir, "out.mov");
    assert_eq!(video.size(), size(256, 96));
    assert_eq!(video.times(), before.times());
    assert_eq!(audio.len(), 2);
}

#[test]
fn sound_that_does_not_fit_is_encoded_anew_and_said_to_be() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "matroskamux name=mux ! filesink location=DIR/in.mkv \
         videotestsrc num-buffers=10 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! x264enc ! h264parse ! queue ! mux. \
         audiotestsrc num-buffers=18 samplesperbuffer=1024 ! audio/x-raw,rate=44100 ! flacenc ! queue ! mux.",
    );
    let output = upscale(&["in.mkv", "out.mp4", "--startup", "low-latency"], &dir);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("audio track 1 (Free Lossless Audio Codec (FLAC))") && said.contains("as AAC"), "{said}");
    let (_, audio) = streams(&dir, "out.mp4");
    assert_eq!(audio[0].caps.as_ref().unwrap().name(), "audio/mpeg");

    assert_success(&upscale(&["in.mkv", "out.mkv", "--startup", "low-latency"], &dir));
    let (_, before) = streams(&dir, "in.mkv");
    let (_, copied) = streams(&dir, "out.mkv");
    assert_eq!(copied[0].bytes(), before[0].bytes());
}
