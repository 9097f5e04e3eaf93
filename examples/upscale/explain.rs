// SPDX-License-Identifier: MPL-2.0

//! Errors of GStreamer in words for the user of a command, who has files and options, and no pipeline.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Error, anyhow};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_pbutils as gst_pbutils;

use crate::element_options;

/// The Debian packages that hold nearly every decoder.
const PACKAGES: &str = "sudo apt-get install gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly";

/// What an element that decodes the input would be, and is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// In words ("H.264 decoder").
    description: String,
    /// The type of the data that it would take ("video/x-h264"), if it is told.
    media: String,
}

impl Missing {
    /// The one that a message tells of.
    pub fn of(message: &gst::Message) -> Option<Self> {
        let message = gst_pbutils::MissingPluginMessage::parse(message).ok()?;
        // "gstreamer|1.0|program|description|decoder-video/x-h264, profile=..."
        let detail = message.installer_detail().to_string();
        let wanted = detail.rsplit('|').next().unwrap_or_default();
        let media = wanted.split_once('-').map_or("", |(_, caps)| caps.split([',', '(']).next().unwrap_or_default());
        Some(Self { description: message.description().to_string(), media: media.trim().to_owned() })
    }

    /// Whether a player would take such data, if it had the element.
    fn is_media(&self) -> bool {
        const OTHERS: [&str; 12] = [
            "pdf",
            "postscript",
            "zip",
            "x-gzip",
            "x-bzip",
            "x-compress",
            "x-rar",
            "x-tar",
            "x-ar",
            "msword",
            "x-executable",
            "x-ms-dos-executable",
        ];
        let other = self.media.strip_prefix("application/").is_some_and(|media| OTHERS.contains(&media));
        !other && !self.media.starts_with("text/")
    }
}

/// The sentence of an error message, with the cure where we know it; `missing` is what has been found missing before.
pub fn explain(error: &gst::message::Error, missing: &[Missing], input: &Path, output: &Path) -> Error {
    let kind = error.error();
    let message = kind.message().to_owned();
    let (path, input, debug) = (input, input.display(), error.debug());
    let factory = error.src().and_then(|source| source.downcast_ref::<gst::Element>()?.factory());
    let factory = factory.map(|factory| factory.name().to_string()).unwrap_or_default();

    if factory == "flashvsr" {
        return anyhow!(for_options(&message));
    }
    if matches!(factory.as_str(), "filesink" | "fdsink" | "multifilesink") {
        return match kind.kind::<gst::ResourceError>() {
            Some(gst::ResourceError::NoSpaceLeft) => anyhow!(
                "the disk is full: \"{}\" could not be written to its end; make room, or choose another place",
                output.display()
            ),
            _ => {
                anyhow!("the output \"{}\" cannot be written: {}", output.display(), reason(&message, debug.as_deref()))
            }
        };
    }
    let undecodable = kind.matches(gst::CoreError::MissingPlugin) || kind.matches(gst::StreamError::CodecNotFound);
    let no_video = message.contains("no video stream");
    if undecodable || no_video {
        if let Some(other) = missing.iter().find(|missing| !missing.is_media()) {
            return anyhow!("\"{input}\" is no video: it is of the type {}", other.media);
        }
        // A stream that nothing parses or decodes does not even appear.
        let missing: Vec<_> =
            missing.iter().filter(|missing| undecodable || missing.media.starts_with("video/")).collect();
        if !missing.is_empty() {
            let names: Vec<_> = missing.iter().map(|missing| missing.description.as_str()).collect();
            return anyhow!(
                "GStreamer lacks what \"{input}\" needs: {}; install it with: {PACKAGES}",
                names.join(", ")
            );
        }
    }
    if kind.matches(gst::StreamError::TypeNotFound) || kind.matches(gst::StreamError::WrongType) {
        return anyhow!("\"{input}\" is no video that GStreamer knows{}", looks(path));
    }
    let no_streams = kind.matches(gst::StreamError::Demux) && message.contains("no playable streams")
        || debug.as_ref().is_some_and(|debug| debug.contains("No pads created"));
    if no_streams {
        return anyhow!(
            "\"{input}\" holds no stream that can be played; if its download or recording was cut off, it lacks the index that \
             players need, and has to be fetched or repaired"
        );
    }
    anyhow!("\"{input}\": {}", reason(&message, debug.as_deref()))
}

/// The message; where that is a general one, what happened too, which its debug text alone says.
fn reason(message: &str, debug: Option<&str>) -> String {
    let general = [
        "Internal data",
        "GStreamer encountered",
        "Could not read",
        "Could not write",
        "Could not open",
        "Error while",
    ];
    match debug.filter(|_| general.iter().any(|general| message.starts_with(general))) {
        // Behind the place in GStreamer's sources comes the cause.
        Some(debug) => format!("{message} ({})", debug.rsplit('\n').next().unwrap_or(debug)),
        None => message.to_owned(),
    }
}

/// What the beginning of a file looks like to a person.
fn looks(path: &Path) -> &'static str {
    let mut start = Vec::new();
    // A pipe has been read already.
    let is_file = path.is_file();
    let read = is_file.then(|| File::open(path).and_then(|file| file.take(4096).read_to_end(&mut start)));
    if !matches!(read, Some(Ok(1..))) {
        return "";
    }
    if start.iter().all(|byte| *byte == 0) {
        return ": it begins with nothing but zeros; was its download or recording cut off?";
    }
    // The last character may be cut.
    let text = std::str::from_utf8(&start).is_ok_and(|text| !text.contains('\0'));
    if text { ": it holds text" } else { "" }
}

/// A message of the element, which speaks of properties, for who has options.
fn for_options(message: &str) -> String {
    let mut text = message
        .replace("the property \"model\"", "--model")
        .replace("add deinterlace before flashvsr", "give --deinterlace");
    for (property, option) in element_options::names() {
        for behind in ["=", " is \""] {
            let (written, ours) = (format!("{property}{behind}"), format!("--{option}{}", behind.replace('=', " ")));
            let begins =
                |at: usize| !text[..at].ends_with(|before: char| before.is_alphanumeric() || "-_/".contains(before));
            let places: Vec<usize> = text.match_indices(&written).map(|(at, _)| at).filter(|at| begins(*at)).collect();
            for at in places.into_iter().rev() {
                text.replace_range(at..at + written.len(), &ours);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn explained(error: impl gst::MessageErrorDomain, message: &str, debug: &str, missing: &[Missing]) -> String {
        gst::init().unwrap();
        let message = gst::message::Error::builder(error, message).debug(debug).build();
        let gst::MessageView::Error(error) = message.view() else { unreachable!() };
        explain(error, missing, Path::new("in.mp4"), Path::new("out.mp4")).to_string()
    }

    fn missing(description: &str, media: &str) -> Missing {
        Missing { description: description.to_owned(), media: media.to_owned() }
    }

    #[test]
    fn what_is_missing_is_blamed_only_if_it_is_the_cause() {
        let h264 = [missing("H.264 decoder", "video/x-h264")];
        let text = explained(gst::CoreError::MissingPlugin, "missing", "", &h264);
        assert!(text.contains("\"in.mp4\"") && text.contains("H.264 decoder") && text.contains("apt-get"), "{text}");
        let text = explained(gst::StreamError::Decode, "cannot decode", "", &h264);
        assert_eq!(text, "\"in.mp4\": cannot decode");
        let text = explained(gst::StreamError::Failed, "the input has no video stream", "", &h264);
        assert!(text.contains("H.264 decoder"), "{text}");
        let text = explained(gst::StreamError::Failed, "the input has no video stream", "", &[missing("x", "audio/x")]);
        assert_eq!(text, "\"in.mp4\": the input has no video stream");
    }

    #[test]
    fn what_no_decoder_is_for_is_called_no_video() {
        for media in ["text/html", "application/pdf", "application/zip"] {
            let text = explained(gst::CoreError::MissingPlugin, "missing", "", &[missing("a decoder", media)]);
            assert_eq!(text, format!("\"in.mp4\" is no video: it is of the type {media}"));
        }
    }

    #[test]
    fn general_messages_come_with_their_cause() {
        let text =
            explained(gst::StreamError::Failed, "Internal data stream error.", "file.c(1): here\nnot-linked", &[]);
        assert_eq!(text, "\"in.mp4\": Internal data stream error. (not-linked)");
    }

    #[test]
    fn files_that_are_no_video_are_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let file = |bytes: &[u8]| {
            let path = dir.path().join("file");
            fs::write(&path, bytes).unwrap();
            looks(&path)
        };
        assert!(file(&[0; 9000]).contains("zeros"));
        assert!(file(b"no film at all").contains("text"));
        assert_eq!(file(&[0xff, 0, 3]), "");
        assert_eq!(looks(dir.path()), "");
    }

    #[test]
    fn properties_become_options() {
        gst::init().unwrap();
        gstflashvsr::register_static().unwrap();
        assert_eq!(for_options("no GPU; set device=cpu, or device=cuda"), "no GPU; set --device cpu, or --device cuda");
        assert_eq!(
            for_options("size-policy is \"fail\"; set size-policy=pad"),
            "--size-policy is \"fail\"; set --size-policy pad"
        );
        assert_eq!(for_options("size-policy=crop leaves nothing"), "--size-policy crop leaves nothing");
        assert_eq!(for_options("/x/scale=2/my-scale=3: gone"), "/x/scale=2/my-scale=3: gone");
        assert!(for_options("set the property \"model\"").contains("set --model"));
    }
}
