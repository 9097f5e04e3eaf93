// SPDX-License-Identifier: MPL-2.0

//! The pipelines of the documents run as they are written, on files of no particular size and rate.

mod programs;
#[allow(dead_code, reason = "made for the command's tests")]
#[path = "upscale_example/rig.rs"]
mod rig;

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use rig::{launch, size, streams};

/// Frames of the clip: more than a first window.
const FRAMES: usize = 30;

/// A clip of odd sides at 12 frames a second, whose first window is longer than a queue is by default.
fn clip(dir: &TempDir) {
    let packets = FRAMES * 44100 / 12 / 1024;
    launch(
        dir,
        &format!(
            "mp4mux name=mux ! filesink location=DIR/in.mp4 \
             videotestsrc num-buffers={FRAMES} ! video/x-raw,format=Y444,width=45,height=35,framerate=12/1 \
             ! x264enc ! h264parse ! queue ! mux. \
             audiotestsrc num-buffers={packets} samplesperbuffer=1024 ! audio/x-raw,rate=44100,channels=2 \
             ! avenc_aac ! queue ! mux."
        ),
    );
}

/// The pipelines of a file, as its readers copy them.
fn pipelines(file: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let joined = text.replace("//! ", "").replace("\\\n", " ");
    let begins = |line: &str| ["gst-launch-1.0 ", "time gst-launch-1.0 "].iter().any(|start| line.starts_with(start));
    joined.lines().map(str::trim_start).filter(|line| begins(line)).map(str::to_owned).collect()
}

/// Runs a pipeline in the shell of a user who has built the plugin and has neither a GPU nor a model.
fn run(pipeline: &str, dir: &TempDir) {
    // A machine without a screen has no video sink.
    let pipeline = pipeline.replace("autovideosink", "fakesink");
    let output = Command::new("timeout")
        .args(["120", "bash", "-c", &pipeline])
        .current_dir(dir)
        .env_remove("FLASHVSR_MODEL")
        .env_remove("XDG_DATA_HOME")
        .env("HOME", dir.path())
        .env("GST_PLUGIN_PATH", programs::plugin().parent().unwrap())
        .env("GST_REGISTRY", dir.path().join("registry"))
        .env("FLASHVSR_DEVICE", "cpu")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("ERROR"), "{pipeline}: {said}");
}

#[test]
fn the_pipelines_of_the_readme_run() {
    let dir = TempDir::new().unwrap();
    clip(&dir);
    let [file, live, comparison] = pipelines("README.md").try_into().expect("a file, a live source and a comparison");

    run(&file, &dir);
    let (video, audio) = streams(&dir, "out.mp4");
    assert_eq!((video.size(), video.packets.len()), (size(4 * 45, 4 * 35), FRAMES));
    let (before, sound) = streams(&dir, "in.mp4");
    assert_eq!(video.times(), before.times());
    assert_eq!(audio.len(), 1);
    assert_eq!(audio[0].bytes(), sound[0].bytes());

    run(&live.replace("videotestsrc ", "videotestsrc num-buffers=12 "), &dir);

    run(&comparison, &dir);
    let (video, _) = streams(&dir, "both.mp4");
    assert_eq!((video.size(), video.packets.len()), (size(2 * 640, 360), FRAMES));
}

#[test]
fn the_pipeline_of_the_elements_documentation_runs() {
    let dir = TempDir::new().unwrap();
    clip(&dir);
    let [pipeline] = pipelines("src/element/mod.rs").try_into().expect("one pipeline");
    run(&pipeline.replace(" model=FlashVSR-v1.1", ""), &dir);
    let (video, audio) = streams(&dir, "out.mp4");
    assert_eq!((video.size(), video.packets.len(), audio.len()), (size(2 * 45, 2 * 35), FRAMES, 1));
}

#[test]
fn the_pipeline_of_the_benchmarks_runs() {
    let dir = TempDir::new().unwrap();
    clip(&dir);
    let [pipeline] = pipelines("benches/README.md").try_into().expect("one pipeline");
    run(&pipeline, &dir);
}

#[test]
fn the_pipeline_of_the_first_command_makes_a_clip() {
    let dir = TempDir::new().unwrap();
    let [pipeline] = pipelines("scripts/upscale.sh").try_into().expect("one pipeline");
    run(&pipeline, &dir);
    let (video, audio) = streams(&dir, "clip.mp4");
    assert_eq!((video.packets.len(), audio.len()), (50, 1));
}
