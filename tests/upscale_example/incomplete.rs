// SPDX-License-Identifier: MPL-2.0

//! Inputs that are cut off or damaged: what there is is kept, and what is missing is said.

use std::fs;

use tempfile::TempDir;

use crate::rig::{assert_success, clip, launch, said, streams, upscale};

/// Four seconds of noise with sound, so that half of the bytes is half of the time.
fn film(dir: &TempDir, name: &str, mux: &str) {
    launch(
        dir,
        &format!(
            "{mux} name=mux ! filesink location=DIR/{name} \
             videotestsrc num-buffers=100 pattern=snow ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
             ! x264enc key-int-max=10 bitrate=400 ! h264parse ! queue ! mux. \
             audiotestsrc num-buffers=188 samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=2 ! lamemp3enc ! queue ! mux."
        ),
    );
}

/// Upscales an input that is not whole; returns the number of frames and the warning.
fn incomplete(dir: &TempDir, name: &str) -> (usize, String) {
    let output = upscale(&[name, "out.mkv", "--startup", "low-latency", "--overwrite", "--scale", "1"], dir);
    assert_eq!(output.status.code(), Some(3), "{name}: {output:?}");
    let (out, warning) = said(&output);
    let frames = streams(dir, "out.mkv").0.packets.len();
    assert!(out.starts_with(&format!("{frames} frames in, {frames} frames out")), "{out}");
    assert!(warning.contains("is incomplete"), "{warning}");
    (frames, warning)
}

#[test]
fn a_file_that_is_cut_off_is_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [
        ("in.mkv", "matroskamux", "lasts 0:04.0"),
        ("in.mp4", "mp4mux faststart=true", "lasts 0:04.0"),
        ("in.avi", "avimux", "bytes"),
    ];
    for (name, mux, words) in kinds {
        film(&dir, name, mux);
        assert_success(&upscale(&[name, "whole.mkv", "--startup", "low-latency", "--overwrite", "--scale", "1"], &dir));
        let whole = fs::read(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name), &whole[..whole.len() / 2]).unwrap();
        let (frames, warning) = incomplete(&dir, name);
        assert!((20..90).contains(&frames), "{name}: {frames}");
        assert!(warning.contains(words), "{name}: {warning}");
    }
}

#[test]
fn a_file_with_a_hole_is_incomplete() {
    let dir = tempfile::tempdir().unwrap();
    film(&dir, "in.mp4", "mp4mux faststart=true");
    let mut bytes = fs::read(dir.path().join("in.mp4")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 20_000].fill(0);
    fs::write(dir.path().join("in.mp4"), bytes).unwrap();
    let (frames, warning) = incomplete(&dir, "in.mp4");
    assert!((40..100).contains(&frames), "{frames}");
    assert!(warning.contains("could not be decoded"), "{warning}");
}

#[test]
fn what_comes_before_a_broken_fragment_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    film(&dir, "in.mp4", "mp4mux fragment-duration=400");
    let mut bytes = fs::read(dir.path().join("in.mp4")).unwrap();
    let fragments: Vec<usize> = (4..bytes.len()).filter(|at| bytes[*at..].starts_with(b"moof")).collect();
    let broken = fragments[fragments.len() / 2];
    bytes[broken + 4..broken + 68].fill(0xff);
    fs::write(dir.path().join("in.mp4"), bytes).unwrap();
    let (frames, warning) = incomplete(&dir, "in.mp4");
    assert!((20..90).contains(&frames), "{frames}");
    assert!(warning.contains("cannot be read beyond 0:0"), "{warning}");
}

#[test]
fn a_whole_file_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 30, "I420");
    assert_success(&upscale(&["in.mp4", "out.mp4", "--startup", "low-latency"], &dir));
}
