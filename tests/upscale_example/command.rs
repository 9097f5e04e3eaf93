// SPDX-License-Identifier: MPL-2.0

//! The command line: what is refused, and how a job ends.

use std::process::{Command, Stdio};

use crate::rig::{clip, command, complaint, launch, streams, upscale};

#[test]
fn wrong_inputs_are_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 2, "I420");
    std::fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    launch(&dir, "audiotestsrc num-buffers=20 ! avenc_aac ! mp4mux ! filesink location=DIR/sound.mp4");
    let refused = |args: &[&str], words: &[&str]| {
        let said = complaint(args, &dir);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    };
    refused(&["none.mp4", "out.mp4"], &["none.mp4", "No such file"]);
    refused(&["text.mp4", "out.mp4"], &["type of stream"]);
    refused(&["sound.mp4", "out.mp4"], &["no video stream"]);
    refused(&["in.mp4", "in.mp4"], &["is the input"]);
    refused(&["in.mp4", "none/out.mp4"], &["cannot write", "none/out.mp4"]);
    refused(&["in.mp4", "out.avi"], &[".mp4, .mov or .mkv"]);
    refused(&["in.mp4", "out.mp4", "--model", "none"], &["\"none\"", "--model"]);
    refused(&["in.mp4", "out.mp4", "--model", "."], &["not found"]);
    assert!(!dir.path().join("out.mp4").exists(), "a failed job leaves nothing behind");
    assert_eq!(upscale(&["in.mp4", "out.mp4", "--scale", "9"], &dir).status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_a_file_that_plays() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3000, "I420");
    let mut running =
        command(&["in.mp4", "out.mp4", "--scale", "4", "--startup", "low-latency", "--threads", "1"], &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
    // The output grows as soon as the first frames are encoded.
    let output = dir.path().join("out.mp4");
    while !std::fs::metadata(&output).is_ok_and(|file| file.len() > 0) {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it wrote anything");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let killed = Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", String::from_utf8_lossy(&ended.stderr));

    let (video, audio) = streams(&dir, "out.mp4");
    let frames = video.packets.len();
    assert!((1..3000).contains(&frames), "{frames}");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.starts_with(&format!("{frames} frames in, {frames} frames out")), "{said}");
    let (video_end, audio_end) = (video.times()[frames - 1], audio[0].times().last().copied().unwrap());
    assert!(audio_end.abs_diff(video_end) < 100_000, "video ends at {video_end}, audio at {audio_end}");
}
