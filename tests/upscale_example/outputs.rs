// SPDX-License-Identifier: MPL-2.0

//! What becomes of output files: nothing touches one that is there until the new one is whole.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;

use crate::rig::{assert_success, clip, complaint, launch, streams, upscale};

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory with a clip, and an output of yesterday.
fn yesterday(frames: usize) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, frames, "I420");
    fs::write(dir.path().join("out.mp4"), "yesterday's work").unwrap();
    dir
}

#[test]
fn an_output_that_is_there_is_replaced_only_on_request() {
    let dir = yesterday(3);
    let output = dir.path().join("out.mp4");
    let mode = |mode| fs::set_permissions(&output, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o640);
    let said = complaint(&["in.mp4", "out.mp4"], &dir);
    assert!(said.contains("\"out.mp4\" is there already") && said.contains("--overwrite"), "{said}");
    assert_eq!(fs::read(&output).unwrap(), b"yesterday's work");
    assert_success(&upscale(&["in.mp4", "out.mp4", "--overwrite", "--startup", "low-latency"], &dir));
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 3);
    assert_eq!(fs::metadata(&output).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(names(dir.path()), ["in.mp4", "out.mp4"]);
}

#[test]
fn a_run_that_fails_leaves_yesterdays_output_alone() {
    let dir = yesterday(3);
    fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    fs::create_dir(dir.path().join("empty")).unwrap();
    launch(&dir, "audiotestsrc num-buffers=20 ! avenc_aac ! mp4mux ! filesink location=DIR/sound.mp4");
    launch(
        &dir,
        "videotestsrc num-buffers=6 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 ! interlace \
         ! x264enc interlaced=true ! h264parse ! mp4mux ! filesink location=DIR/interlaced.mp4",
    );
    let before = names(dir.path());
    let failing: &[&[&str]] = &[
        &["text.mp4"],
        &["sound.mp4"],
        &["interlaced.mp4"],
        &["in.mp4", "--device", "cuda:77"],
        &["in.mp4", "--device", "toaster"],
        &["in.mp4", "--model", "empty"],
        &["in.mp4", "--size-policy", "fail"],
    ];
    for args in failing {
        let args: Vec<_> = [args[0], "out.mp4", "--overwrite"].into_iter().chain(args[1..].iter().copied()).collect();
        let said = complaint(&args, &dir);
        assert!(said.contains("error: "), "{args:?}: {said}");
        assert_eq!(fs::read(dir.path().join("out.mp4")).unwrap(), b"yesterday's work", "{args:?}");
        assert_eq!(names(dir.path()), before, "{args:?} leaves something behind");
    }
}

#[test]
fn a_link_stays_a_link() {
    let dir = yesterday(3);
    symlink("out.mp4", dir.path().join("link.mp4")).unwrap();
    assert!(complaint(&["in.mp4", "link.mp4"], &dir).contains("is there already"));
    assert_success(&upscale(&["in.mp4", "link.mp4", "--overwrite", "--startup", "low-latency"], &dir));
    assert_eq!(fs::read_link(dir.path().join("link.mp4")).unwrap(), Path::new("out.mp4"));
    assert_eq!(streams(&dir, "out.mp4").0.packets.len(), 3);

    // One that leads nowhere yet.
    fs::create_dir(dir.path().join("there")).unwrap();
    symlink("there/new.mp4", dir.path().join("dangling.mp4")).unwrap();
    assert_success(&upscale(&["in.mp4", "dangling.mp4", "--startup", "low-latency"], &dir));
    assert_eq!(streams(&dir, "there/new.mp4").0.packets.len(), 3);
    assert_eq!(names(&dir.path().join("there")), ["new.mp4"]);

    symlink("in.mp4", dir.path().join("other.mp4")).unwrap();
    assert!(complaint(&["in.mp4", "other.mp4", "--overwrite"], &dir).contains("is the input"));
    symlink("circle.mp4", dir.path().join("circle.mp4")).unwrap();
    assert!(complaint(&["in.mp4", "circle.mp4"], &dir).contains("circle"));
}

#[test]
fn devices_are_written_as_they_are() {
    let dir = yesterday(3);
    symlink("/dev/null", dir.path().join("null.mkv")).unwrap();
    assert_success(&upscale(&["in.mp4", "null.mkv", "--startup", "low-latency"], &dir));
    symlink("/dev/full", dir.path().join("full.mkv")).unwrap();
    complaint(&["in.mp4", "full.mkv", "--startup", "low-latency"], &dir);
    assert_eq!(names(dir.path()), ["full.mkv", "in.mp4", "null.mkv", "out.mp4"]);
}

#[test]
fn places_that_cannot_be_written_are_refused_before_any_work() {
    let dir = yesterday(1);
    let refused = |output: &str, words: &[&str]| {
        let said = complaint(&["in.mp4", output], &dir);
        assert!(words.iter().all(|word| said.contains(word)), "{output}: {said}");
    };
    refused("none/out.mp4", &["cannot write", "none/out.mp4", "No such file"]);
    refused("in.mp4/out.mp4", &["cannot write", "in.mp4/out.mp4", "Not a directory"]);
    refused("/proc/out.mp4", &["cannot write", "/proc/out.mp4", "beside it"]);
}
