// SPDX-License-Identifier: MPL-2.0

//! Containers and codecs: which GStreamer elements write them, and which Debian packages bring those.

use std::path::Path;

use anyhow::{Result, bail};
use gst::prelude::*;
use gstreamer as gst;

use crate::args::Codec;

/// Debian package of each element that is used. A decoder is looked for by GStreamer itself.
const PACKAGES: &[(&str, &str)] = &[
    ("x264enc", "gstreamer1.0-plugins-ugly"),
    ("x265enc", "gstreamer1.0-plugins-bad"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("h265parse", "gstreamer1.0-plugins-bad"),
    ("mp4mux", "gstreamer1.0-plugins-good"),
    ("qtmux", "gstreamer1.0-plugins-good"),
    ("matroskamux", "gstreamer1.0-plugins-good"),
    ("videoflip", "gstreamer1.0-plugins-good"),
    ("deinterlace", "gstreamer1.0-plugins-good"),
    ("capssetter", "gstreamer1.0-plugins-good"),
    ("aacparse", "gstreamer1.0-plugins-good"),
    ("ac3parse", "gstreamer1.0-plugins-good"),
    ("mpegaudioparse", "gstreamer1.0-plugins-good"),
    ("opusparse", "gstreamer1.0-plugins-bad"),
    ("qtdemux", "gstreamer1.0-plugins-good"),
    ("matroskademux", "gstreamer1.0-plugins-good"),
    ("multifilesrc", "gstreamer1.0-plugins-good"),
    ("multifilesink", "gstreamer1.0-plugins-good"),
    ("pngenc", "gstreamer1.0-plugins-good"),
    ("jpegenc", "gstreamer1.0-plugins-good"),
    ("avenc_aac", "gstreamer1.0-libav"),
    ("flashvsr", "gst-plugin-flashvsr"),
];

/// Package of every element that [`PACKAGES`] does not name.
const BASE_PACKAGE: &str = "gstreamer1.0-plugins-base";

/// Makes an element, or says which Debian package has it.
pub fn make(factory: &str) -> Result<gst::Element> {
    gst::ElementFactory::make(factory).build().map_err(|_| {
        let package = PACKAGES.iter().find(|(name, _)| *name == factory).map_or(BASE_PACKAGE, |(_, package)| *package);
        anyhow::anyhow!("GStreamer has no element \"{factory}\"; install it with: sudo apt-get install {package}")
    })
}

/// What the output file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// `.mp4`
    Mp4,
    /// `.mov`
    Mov,
    /// `.mkv`
    Matroska,
}

impl Container {
    /// The container that a file name asks for.
    pub fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        Ok(match extension.as_str() {
            "mp4" | "m4v" => Self::Mp4,
            "mov" => Self::Mov,
            "mkv" => Self::Matroska,
            _ => bail!("cannot tell what \"{}\" should be: end its name in .mp4, .mov or .mkv", path.display()),
        })
    }

    /// Its muxer.
    pub fn muxer(self) -> Result<gst::Element> {
        make(match self {
            Self::Mp4 => "mp4mux",
            Self::Mov => "qtmux",
            Self::Matroska => "matroskamux",
        })
    }

    /// What reads it.
    pub fn demuxer(self) -> Result<gst::Element> {
        make(match self {
            Self::Mp4 | Self::Mov => "qtdemux",
            Self::Matroska => "matroskademux",
        })
    }
}

/// The ticks per second in which an MP4 or MOV track counts: a multiple of the frame rate, so that a constant rate is exact,
/// and fine enough that a variable one is off by no more than 6 microseconds.
pub fn timescale(framerate: Option<gst::Fraction>) -> u32 {
    const AT_LEAST: u32 = 90_000;
    match framerate.and_then(|rate| u32::try_from(rate.numer()).ok()) {
        Some(rate @ 1..AT_LEAST) => AT_LEAST.div_ceil(rate) * rate,
        _ => AT_LEAST,
    }
}

/// A constant quality, or an average bit rate in kbit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// CRF
    Quality(u32),
    /// kbit/s
    Bitrate(u32),
}

/// The encoder and parser of a codec; `preset` is one of the encoder's.
pub fn video_encoder(codec: Codec, rate: Rate, preset: Option<&str>) -> Result<[gst::Element; 2]> {
    let (encoder, parser) = match codec {
        Codec::H264 => (make("x264enc")?, make("h264parse")?),
        Codec::H265 => (make("x265enc")?, make("h265parse")?),
    };
    // Without B-frames the decoding order is the presentation order. With them, the muxers derive the length of a variable
    // rate track from its decoding times, and players may cut the last frames off.
    match codec {
        Codec::H264 => encoder.set_property("bframes", 0u32),
        Codec::H265 => encoder.set_property("option-string", "bframes=0"),
    }
    if let Some(preset) = preset {
        encoder.set_property_from_str("speed-preset", preset);
    }
    match (codec, rate) {
        (_, Rate::Bitrate(bitrate)) => encoder.set_property("bitrate", bitrate),
        (Codec::H264, Rate::Quality(crf)) => {
            encoder.set_property_from_str("pass", "qual");
            encoder.set_property("quantizer", crf);
        }
        (Codec::H265, Rate::Quality(crf)) => encoder.set_property("option-string", format!("bframes=0:crf={crf}")),
    }
    Ok([encoder, parser])
}

/// The pad template through which a muxer takes a stream, if it does.
pub fn muxer_template(muxer: &gst::Element, caps: &gst::Caps) -> Option<gst::PadTemplate> {
    muxer
        .pad_template_list()
        .into_iter()
        .find(|template| template.direction() == gst::PadDirection::Sink && template.caps().can_intersect(caps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_decides_the_container() {
        assert_eq!(Container::of(Path::new("a/b.MP4")).unwrap(), Container::Mp4);
        assert_eq!(Container::of(Path::new("b.mov")).unwrap(), Container::Mov);
        assert_eq!(Container::of(Path::new("b.mkv")).unwrap(), Container::Matroska);
        for wrong in ["b.avi", "b", "mp4"] {
            assert!(Container::of(Path::new(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn timescales_hold_constant_rates_exactly() {
        for (numer, denom) in [(25, 1), (30_000, 1001), (24_000, 1001), (60, 1), (120, 1), (15, 2)] {
            let scale = timescale(Some(gst::Fraction::new(numer, denom)));
            assert_eq!(i64::from(scale) * i64::from(denom) % i64::from(numer), 0, "{numer}/{denom} at {scale}");
            assert!((90_000..180_000).contains(&scale), "{scale}");
        }
        for unknown in [None, Some(gst::Fraction::new(0, 1))] {
            assert_eq!(timescale(unknown), 90_000);
        }
    }

    #[test]
    fn a_missing_element_is_named_with_its_package() {
        gst::init().unwrap();
        let error = make("no-such-element").unwrap_err().to_string();
        assert!(error.contains("no-such-element") && error.contains("gstreamer1.0-plugins-base"), "{error}");
    }
}
