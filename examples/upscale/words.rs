// SPDX-License-Identifier: MPL-2.0

//! Times and streams in the words of users.

use gstreamer as gst;
use gstreamer_pbutils as gst_pbutils;

/// `1:23.4`, or `1:02:03.4`.
pub fn clock(time: gst::ClockTime) -> String {
    let tenths = time.mseconds() / 100;
    let (minutes, seconds) = (tenths / 600, tenths % 600);
    let seconds = format!("{:02}.{}", seconds / 10, seconds % 10);
    match minutes / 60 {
        0 => format!("{minutes}:{seconds}"),
        hours => format!("{hours}:{:02}:{seconds}", minutes % 60),
    }
}

/// What a stream of the input is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Moving pictures.
    Video,
    /// JPEG, PNG and the like: a film of such frames, or a cover.
    Pictures,
    /// Sound.
    Sound,
    /// Subtitles as text or as pictures.
    Subtitles,
    /// Anything else.
    Data,
}

impl Kind {
    /// The kind of a stream with these caps.
    pub fn of(caps: &gst::CapsRef) -> Self {
        let name = caps.structure(0).map_or("", |structure| structure.name().as_str());
        match name.split('/').next().unwrap_or_default() {
            "video" => Self::Video,
            "image" => Self::Pictures,
            "audio" => Self::Sound,
            "text" | "subtitle" | "subpicture" | "closedcaption" => Self::Subtitles,
            _ if ["application/x-ssa", "application/x-ass", "application/x-teletext", "application/x-subtitle"]
                .iter()
                .any(|start| name.starts_with(start)) =>
            {
                Self::Subtitles
            }
            _ => Self::Data,
        }
    }
}

/// What a stream is, such as `video (H.264)`, with the name of its type where GStreamer has no better.
pub fn describe(caps: &gst::CapsRef) -> String {
    let kind = match Kind::of(caps) {
        Kind::Video => "video",
        Kind::Pictures => "pictures",
        Kind::Sound => "sound",
        Kind::Subtitles => "subtitles",
        Kind::Data => "data",
    };
    format!("{kind} ({})", codec(caps))
}

/// The name of a codec.
pub fn codec(caps: &gst::CapsRef) -> String {
    let name = caps.structure(0).map_or("unknown", |structure| structure.name().as_str());
    match name {
        "text/x-raw" => return "text".to_owned(),
        "application/x-subtitle-unknown" => return "unknown to GStreamer".to_owned(),
        "audio/x-unknown" | "video/x-unknown" => return "unknown to GStreamer".to_owned(),
        _ => {}
    }
    // GStreamer has a word for everything, but its own name of the type where it knows no better.
    let mut fixed: gst::Caps = caps.structure(0).map(ToOwned::to_owned).into_iter().collect();
    fixed.fixate();
    let description = gst_pbutils::pb_utils_get_codec_description(&fixed);
    if description.is_empty() { name.to_owned() } else { description.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(clock(gst::ClockTime::from_mseconds(1_250)), "0:01.2");
        assert_eq!(clock(gst::ClockTime::from_mseconds(3_661_999)), "1:01:01.9");
    }

    #[test]
    fn streams_have_names() {
        gst::init().unwrap();
        let of = |caps: &str| describe(&caps.parse::<gst::Caps>().unwrap());
        assert_eq!(of("text/x-raw, format=pango-markup"), "subtitles (text)");
        assert!(of("audio/x-flac").contains("FLAC"), "{}", of("audio/x-flac"));
        assert!(of("meta/x-klv").starts_with("data ("), "{}", of("meta/x-klv"));
        assert!(of("application/x-ass").starts_with("subtitles ("));
    }
}
