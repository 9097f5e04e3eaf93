// SPDX-License-Identifier: MPL-2.0

//! Subtitles, titles and chapters.

use std::fs;

use tempfile::TempDir;

use crate::rig::{assert_success, launch, said, streams_of, upscale};

/// A film of two seconds with subtitles, and a title that is no plain word.
fn film(dir: &TempDir) {
    let cues = "1\n00:00:00,200 --> 00:00:01,000\nHello <i>you</i> & me\n\n2\n00:00:01,200 --> 00:00:01,800\nBye\n\n";
    fs::write(dir.path().join("in.srt"), cues).unwrap();
    launch(
        dir,
        "matroskamux name=mux ! filesink location=DIR/in.mkv \
         videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=64,height=48,framerate=25/1 \
         ! taginject tags=\"title=\\\"My Käse film\\\"\" ! x264enc ! h264parse ! queue ! mux. \
         filesrc location=DIR/in.srt ! subparse ! capssetter caps=text/x-raw,format=utf8 ! queue ! mux.",
    );
}

#[test]
fn subtitles_are_copied_where_the_output_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    film(&dir);
    for name in ["out.mkv", "out.mp4"] {
        let output = upscale(&["in.mkv", name, "--startup", "low-latency"], &dir);
        assert_success(&output);
        assert!(said(&output).0.contains("1 subtitle track copied"), "{output:?}");
        let texts = streams_of(&dir, name, "text/");
        assert_eq!(texts.len(), 1, "{name}");
        let cues: Vec<(u64, String)> = texts[0]
            .packets
            .iter()
            .map(|(time, bytes)| (time / 1000, String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned()))
            .filter(|(_, text)| !text.is_empty())
            .collect();
        assert_eq!(cues.len(), 2, "{name}: {cues:?}");
        assert_eq!((cues[0].0, cues[1].0), (200, 1200), "{name}: {cues:?}");
        assert!(cues[0].1.contains("you") && cues[1].1.contains("Bye"), "{name}: {cues:?}");
    }
    let output = upscale(&["in.mkv", "frame_%03d.png", "--startup", "low-latency"], &dir);
    assert_success(&output);
    let (_, notes) = said(&output);
    assert!(notes.contains("subtitles (text) left out"), "{notes}");
}

#[test]
fn titles_of_matroska_are_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    film(&dir);
    assert_success(&upscale(&["in.mkv", "out.mkv", "--startup", "low-latency"], &dir));
    let bytes = fs::read(dir.path().join("out.mkv")).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(!holds("My\\ K") && !holds("\"My"));
}
