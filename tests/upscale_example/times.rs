// SPDX-License-Identifier: MPL-2.0

//! Times, durations and sizes that encoders and muxers do not take as they are.

use std::fs;

use crate::rig::{assert_success, duration, launch, said, streams, upscale};

/// The summary of a run of `frames` frames, all of which the output holds; its times rise.
fn assert_all_frames(args: &[&str], frames: usize, dir: &tempfile::TempDir) -> Vec<u64> {
    let output = upscale(&[args, &["--startup", "low-latency", "--overwrite"]].concat(), dir);
    assert_success(&output);
    let (out, _) = said(&output);
    assert!(out.starts_with(&format!("{frames} frames in, {frames} frames out")), "{args:?}: {out}");
    let times = streams(dir, args[1]).0.times();
    assert_eq!(times.len(), frames, "{args:?}");
    times
}

fn assert_rising(times: &[u64]) {
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[test]
fn frames_that_milliseconds_put_at_one_time_are_spread() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "videotestsrc num-buffers=40 ! video/x-raw,format=I420,width=64,height=48,framerate=2500/1 \
         ! x264enc ! h264parse ! matroskamux ! filesink location=DIR/in.mkv",
    );
    let given = streams(&dir, "in.mkv").0.times();
    assert!(given.windows(2).any(|pair| pair[0] == pair[1]), "the clip has equal times: {given:?}");
    for name in ["out.mp4", "out.mkv"] {
        let times = assert_all_frames(&["in.mkv", name], 40, &dir);
        assert_rising(&times);
    }
}

#[test]
fn old_avi_with_b_frames_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "videotestsrc num-buffers=30 pattern=ball ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! avenc_mpeg4 max-bframes=2 ! avimux ! filesink location=DIR/in.avi",
    );
    for name in ["out.mp4", "out.mkv"] {
        let times = assert_all_frames(&["in.avi", name], 30, &dir);
        assert_rising(&times);
    }
}

#[test]
fn the_last_frame_of_a_variable_rate_lasts() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! capssetter caps=video/x-raw,framerate=0/1 ! vp8enc deadline=1 ! webmmux ! filesink location=DIR/in.webm",
    );
    for args in [["in.webm", "out.mp4"].as_slice(), &["in.webm", "out.mov"], &["in.webm", "out.mp4", "--codec", "h265"]]
    {
        assert_all_frames(args, 20, &dir);
        assert_eq!(duration(&dir, args[1]).mseconds(), 800, "{args:?}");
    }
}

#[test]
fn a_film_whose_size_changes_goes_on_in_its_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut film = Vec::new();
    for (width, height) in [(64, 48), (128, 72)] {
        launch(
            &dir,
            &format!(
                "videotestsrc num-buffers=15 pattern=white ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 \
                 ! x264enc ! mpegtsmux ! filesink location=DIR/part.ts"
            ),
        );
        film.extend(fs::read(dir.path().join("part.ts")).unwrap());
    }
    fs::write(dir.path().join("in.ts"), film).unwrap();
    for name in ["out.mp4", "out.mkv"] {
        let output = upscale(&["in.ts", name, "--startup", "low-latency"], &dir);
        assert_success(&output);
        let (_, notes) = said(&output);
        assert!(notes.contains("changes to 128x72") && notes.contains("first size, 64x48, with bars"), "{notes}");
        let (video, _) = streams(&dir, name);
        assert_eq!(video.packets.len(), 30);
        assert_eq!(video.size(), crate::rig::size(128, 96));
    }
    // Black bars take a quarter of a white picture of the other shape; stretched, it would be as bright as before. The noise of
    // the tiny model is clipped at white.
    assert_success(&upscale(&["in.ts", "frame_%02d.png", "--startup", "low-latency"], &dir));
    let brightness = |name| {
        let picture = image::open(dir.path().join(name)).unwrap().to_luma8();
        assert_eq!(picture.dimensions(), (128, 96));
        picture.pixels().map(|pixel| u64::from(pixel.0[0])).sum::<u64>() / (128 * 96)
    };
    let (before, after) = (brightness("frame_01.png"), brightness("frame_30.png"));
    assert!(before > 200 && (before / 2..before * 85 / 100).contains(&after), "{before} {after}");
}

#[test]
fn an_odd_size_at_scale_one_becomes_even() {
    let dir = tempfile::tempdir().unwrap();
    launch(
        &dir,
        "videotestsrc num-buffers=3 ! video/x-raw,width=53,height=37,framerate=25/1 ! pngenc ! avimux ! filesink location=DIR/in.avi",
    );
    assert_all_frames(&["in.avi", "out.mp4", "--scale", "1"], 3, &dir);
    assert_eq!(streams(&dir, "out.mp4").0.size(), crate::rig::size(54, 38));
}
