// SPDX-License-Identifier: MPL-2.0

//! The command line: what is taken, and what is refused in which words.

use crate::rig::{clip, complaint, launch, upscale};

#[test]
fn wrong_inputs_are_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 2, "I420");
    std::fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    std::fs::write(dir.path().join("page.mp4"), "<!DOCTYPE html><html><body>Log in</body></html>\n").unwrap();
    std::fs::write(dir.path().join("zeros.mp4"), [0; 100_000]).unwrap();
    std::fs::write(dir.path().join("empty.mp4"), "").unwrap();
    let whole = std::fs::read(dir.path().join("in.mp4")).unwrap();
    std::fs::write(dir.path().join("cut.mp4"), &whole[..whole.len() / 2]).unwrap();
    launch(&dir, "audiotestsrc num-buffers=20 ! avenc_aac ! mp4mux ! filesink location=DIR/sound.mp4");
    let refused = |args: &[&str], words: &[&str]| {
        let said = complaint(args, &dir);
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    };
    refused(&["none.mp4", "out.mp4"], &["\"none.mp4\"", "No such file"]);
    refused(&["empty.mp4", "out.mp4"], &["\"empty.mp4\" is empty"]);
    refused(&["text.mp4", "out.mp4"], &["\"text.mp4\" is no video", "text"]);
    refused(&["page.mp4", "out.mp4"], &["\"page.mp4\" is no video", "text/html"]);
    refused(&["zeros.mp4", "out.mp4"], &["\"zeros.mp4\" is no video", "zeros", "cut off"]);
    refused(&["cut.mp4", "out.mp4"], &["\"cut.mp4\" holds no stream", "cut off", "index"]);
    refused(&["sound.mp4", "out.mp4"], &["\"sound.mp4\"", "no video stream"]);
    refused(&[".", "out.mp4"], &["\".\" is a directory"]);
    refused(&["in.mp4", "in.mp4"], &["is the input"]);
    refused(&["in.mp4", "none/out.mp4"], &["cannot write", "none/out.mp4"]);
    refused(&["in.mp4", "out.avi"], &[".mp4, .mov or .mkv"]);
    refused(&["in.mp4", "out.mp4", "--model", "none"], &["\"none\"", "--model"]);
    refused(&["in.mp4", "out.mp4", "--model", "."], &["not found"]);
    refused(&["in.mp4", "out.mp4", "--device", "toaster"], &["\"toaster\"", "--device cpu"]);
    refused(&["in.mp4", "out.mp4", "--size-policy", "fail"], &["--size-policy pad"]);
    assert!(!dir.path().join("out.mp4").exists(), "a failed job leaves nothing behind");
    assert_eq!(upscale(&["in.mp4", "out.mp4", "--scale", "9"], &dir).status.code(), Some(2));
}

#[test]
fn names_that_are_no_utf8_are_names_like_any_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3, "I420");
    let [input, output, model] = [&b"\xe8in.mp4"[..], b"\xe8out.mp4", b"mod\xe8le"].map(OsStr::from_bytes);
    std::fs::rename(dir.path().join("in.mp4"), dir.path().join(input)).unwrap();
    std::os::unix::fs::symlink(crate::programs::MODEL, dir.path().join(model)).unwrap();
    let run = crate::rig::command(&[], &dir)
        .env_remove("FLASHVSR_MODEL")
        .args([input, output, OsStr::new("--model"), model])
        .args(["--startup", "low-latency"])
        .output()
        .unwrap();
    crate::rig::assert_success(&run);
    std::fs::rename(dir.path().join(output), dir.path().join("out.mp4")).unwrap();
    assert_eq!(crate::rig::streams(&dir, "out.mp4").0.packets.len(), 3);
}

#[test]
fn numbers_out_of_range_are_a_wrong_command_line() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 1, "I420");
    let wrong = [
        "--scale=nan",
        "--scale=0.5",
        "--threads=100000",
        "--sparse-ratio=100",
        "--sparse-ratio=nan",
        "--sparse-ratio=0",
        "--kv-ratio=0",
        "--kv-ratio=inf",
        "--local-range=0",
        "--local-range=256",
        "--model-version=v2",
        "--startup=slow",
        "--seed=-1",
        "--quality=51",
        "--bitrate=0",
        "--precision=f8",
    ];
    for option in wrong {
        let output = upscale(&["in.mp4", "out.mp4", option], &dir);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{option}: {said}");
        assert!(said.contains(option.split('=').next().unwrap()), "{option}: {said}");
    }
    assert!(!dir.path().join("out.mp4").exists());
}

#[test]
fn the_help_tells_ranges_and_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(upscale(&["--help"], &dir).stdout).unwrap();
    for word in ["--kv-ratio", "--local-range", "--model-version", "Exit codes:", "130", "[1 to 8]", "low-latency"] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
}

#[test]
fn several_inputs_go_into_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 3, "I420");
    std::fs::copy(dir.path().join("in.mp4"), dir.path().join("second.mov")).unwrap();
    std::fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    let output = upscale(&["in.mp4", "text.mp4", "second.mov", "-o", "outputs", "--startup", "low-latency"], &dir);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "one of three fails: {said}");
    let names: std::collections::BTreeSet<_> =
        std::fs::read_dir(dir.path().join("outputs")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["in.mp4", "second.mov"].map(Into::into).into(), "{said}");

    let again = upscale(&["in.mp4", "second.mov", "-o", "outputs/"], &dir);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("outputs/in.mp4\" is there already"));
    assert_eq!(upscale(&["in.mp4", "second.mov", "third.mp4"], &dir).status.code(), Some(2));
    assert_eq!(upscale(&["in.mp4"], &dir).status.code(), Some(2));
}

#[test]
fn json_tells_the_end_to_scripts() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 4, "I420");
    std::fs::write(dir.path().join("text.mp4"), "no film at all\n").unwrap();
    let output = upscale(&["in.mp4", "text.mp4", "-o", "outputs", "--json", "--startup", "low-latency"], &dir);
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| events.iter().filter(|event| event["event"] == kind).cloned().collect::<Vec<_>>();
    let (starts, ends) = (of("start"), of("end"));
    assert_eq!(starts.len(), 2);
    assert_eq!((&starts[1]["number"], &starts[1]["of"]), (&2.into(), &2.into()));
    assert_eq!(starts[1]["output"], "outputs/text.mp4");
    assert_eq!((&ends[0]["outcome"], &ends[0]["exit_code"]), (&"done".into(), &0.into()));
    assert_eq!((&ends[0]["frames_out"], &ends[0]["output"]), (&4.into(), &"outputs/in.mp4".into()));
    assert_eq!(ends[0]["size_out"], serde_json::json!([128, 96]));
    assert_eq!((&ends[1]["outcome"], &ends[1]["output"]), (&"failed".into(), &serde_json::Value::Null));
    assert!(ends[1]["error"].as_str().unwrap().contains("\"text.mp4\" is no video"));
}

#[test]
fn the_model_is_loaded_once_for_several_inputs() {
    let dir = tempfile::tempdir().unwrap();
    clip(&dir, 2, "I420");
    std::fs::copy(dir.path().join("in.mp4"), dir.path().join("second.mp4")).unwrap();
    let output = upscale(&["in.mp4", "second.mp4", "-o", "outputs", "--json"], &dir);
    assert_eq!(output.status.code(), Some(0));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let (first, second) = kinds.split_at(kinds.iter().rposition(|kind| *kind == "start").unwrap());
    assert!(first.contains(&"loading"), "{kinds:?}");
    assert!(!second.contains(&"loading"), "{kinds:?}");
}
