// SPDX-License-Identifier: MPL-2.0

//! What becomes of more than 8 bits, of full colour and of HDR.

use tempfile::TempDir;

use crate::rig::{assert_success, launch, said, streams, upscale};

/// A clip of raw frames of a format.
fn raw(dir: &TempDir, caps: &str) {
    launch(
        dir,
        &format!(
            "videotestsrc num-buffers=3 ! video/x-raw,width=64,height=48,framerate=25/1,{caps} ! x264enc ! h264parse ! mp4mux ! filesink location=DIR/in.mp4"
        ),
    );
}

/// The type of the video that comes out, its bits, and what is said.
fn upscaled(dir: &TempDir, more: &[&str]) -> (String, String, String) {
    let output = upscale(&[&["in.mp4", "out.mp4", "--startup", "low-latency", "--overwrite"], more].concat(), dir);
    assert_success(&output);
    let (video, _) = streams(dir, "out.mp4");
    (video.caps.as_ref().unwrap().name().to_string(), video.field("bit-depth-luma"), said(&output).1)
}

#[test]
fn ten_bits_become_h265_unless_asked() {
    let dir = tempfile::tempdir().unwrap();
    raw(&dir, "format=I420_10LE");
    let (codec, bits, notes) = upscaled(&dir, &[]);
    assert_eq!((codec.as_str(), bits.as_str()), ("video/x-h265", "10"));
    assert!(notes.contains("H.265"), "{notes}");
    let (codec, bits, notes) = upscaled(&dir, &["--codec", "h264"]);
    assert_eq!((codec.as_str(), bits.as_str()), ("video/x-h264", "10"));
    assert!(notes.contains("High 10"), "{notes}");
    let (codec, bits, notes) = upscaled(&dir, &["--compare"]);
    assert_eq!((codec.as_str(), bits.as_str()), ("video/x-h264", "8"));
    assert!(notes.contains("become 8 in a comparison"), "{notes}");
}

#[test]
fn lost_colour_and_hdr_are_said() {
    let dir = tempfile::tempdir().unwrap();
    for (caps, words) in [
        ("format=Y42B", "4:2:2 video becomes 4:2:0"),
        ("format=Y444", "4:4:4 video becomes 4:2:0"),
        ("format=I420_10LE,colorimetry=bt2100-pq", "HDR video (PQ)"),
        ("format=I420_10LE,colorimetry=bt2100-hlg", "HDR video (HLG)"),
    ] {
        raw(&dir, caps);
        let (_, _, notes) = upscaled(&dir, &[]);
        assert!(notes.contains(words), "{caps}: {notes}");
    }
    raw(&dir, "format=I420");
    assert_eq!(upscaled(&dir, &[]).2, "");
}
