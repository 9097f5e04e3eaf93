// SPDX-License-Identifier: MPL-2.0

//! What is written: a film or pictures, and how their frames are encoded.

use std::path::Path;

use anyhow::{Context, Result};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::VideoFormat;

use crate::args::Codec;
use crate::formats::{Container, Rate, make, video_encoder};
use crate::numbered::Pattern;

/// What the name of an output stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Video and sound in a container.
    Film(Container),
    /// One picture.
    Picture(PictureFormat),
    /// A picture of each frame.
    Pictures(PictureFormat, Pattern),
}

/// File formats of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFormat {
    /// `.png`
    Png,
    /// `.jpg` or `.jpeg`
    Jpeg,
}

impl PictureFormat {
    /// The format that a file name asks for.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg),
            _ => None,
        }
    }
}

impl Target {
    /// What the name `path` stands for.
    ///
    /// # Errors
    /// If its ending is none that can be written.
    pub fn of(path: &Path) -> Result<Self> {
        let Some(format) = PictureFormat::of(path) else { return Container::of(path).map(Self::Film) };
        Ok(match Pattern::of(path)? {
            Some(pattern) => Self::Pictures(format, pattern),
            None => Self::Picture(format),
        })
    }
}

impl Target {
    /// The format of pictures, if pictures are written.
    pub fn picture(&self) -> Option<PictureFormat> {
        match self {
            Self::Film(_) => None,
            Self::Picture(format) | Self::Pictures(format, _) => Some(*format),
        }
    }
}

/// How the user wants frames to be encoded.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The codec, unless it is to follow from the input.
    pub codec: Option<Codec>,
    /// How many bits.
    pub rate: Rate,
    /// The preset of the encoder, unless it is its own default.
    pub preset: Option<&'static str>,
    /// Pictures instead of video.
    pub picture: Option<PictureFormat>,
}

/// How frames are encoded, and of which raw formats the best is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoding {
    /// What encodes them.
    pub encoder: Encoder,
    /// What the encoder is fed.
    pub raw: gst::Caps,
}

/// What encodes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoder {
    /// A video codec, and the preset of its encoder.
    Video(Codec, Rate, Option<&'static str>),
    /// A picture for each.
    Picture(PictureFormat),
}

impl Wish {
    /// Decides how frames like `source` are encoded. Video is 4:2:0, with 10 bits where the source has more than 8 and
    /// nothing stands in the way, and then H.265 by itself: few players take 10 bits in H.264.
    pub fn decide(&self, source: &gst_video::VideoInfo, compare: bool) -> Encoding {
        let deep = depth(source) > 8 && !compare;
        let caps = gst_video::VideoCapsBuilder::new();
        match self.picture {
            None => {
                let codec = self.codec.unwrap_or(if deep { Codec::H265 } else { Codec::H264 });
                let raw = caps.format(if deep { VideoFormat::I42010le } else { VideoFormat::I420 }).build();
                Encoding { encoder: Encoder::Video(codec, self.rate, self.preset), raw }
            }
            Some(format @ PictureFormat::Png) => {
                let raw = if source.has_alpha() && !compare {
                    VideoFormat::Rgba
                } else if source.is_gray() {
                    VideoFormat::Gray8
                } else {
                    VideoFormat::Rgb
                };
                Encoding { encoder: Encoder::Picture(format), raw: caps.format(raw).build() }
            }
            Some(format @ PictureFormat::Jpeg) => {
                let raw = if source.is_gray() {
                    VideoFormat::Gray8
                } else if halves_color(source) {
                    VideoFormat::I420
                } else {
                    VideoFormat::Y444
                };
                // What JFIF means by YCbCr: the matrix of BT.601, in full range.
                let raw = caps.format(raw).field("colorimetry", "1:4:0:0").build();
                Encoding { encoder: Encoder::Picture(format), raw }
            }
        }
    }
}

impl Encoder {
    /// The elements, in their order.
    ///
    /// # Errors
    /// If GStreamer lacks one.
    pub fn elements(self) -> Result<Vec<gst::Element>> {
        match self {
            Self::Video(codec, rate, preset) => video_encoder(codec, rate, preset).map(Vec::from),
            Self::Picture(PictureFormat::Png) => Ok(vec![make("pngenc")?]),
            Self::Picture(PictureFormat::Jpeg) => {
                let encoder = make("jpegenc")?;
                encoder.set_property("quality", 95i32);
                Ok(vec![encoder])
            }
        }
    }
}

/// Bits of a colour.
pub fn depth(info: &gst_video::VideoInfo) -> u32 {
    info.format_info().depth().iter().max().copied().unwrap_or(8)
}

/// Whether colour has half the resolution of brightness in both directions, or less.
pub fn halves_color(info: &gst_video::VideoInfo) -> bool {
    let format = info.format_info();
    info.is_yuv()
        && format.w_sub().get(1).is_some_and(|sub| *sub > 0)
        && format.h_sub().get(1).is_some_and(|sub| *sub > 0)
}

/// The element that writes pictures to `location`, with `%d` for the number if there are several, which begin at `first`.
pub fn picture_sink(location: &str, first: u64) -> Result<gst::Element> {
    let sink = make("multifilesink")?;
    sink.set_property("location", location);
    sink.set_property("index", i32::try_from(first).context("the numbers of the pictures are too large")?);
    sink.set_property("sync", false);
    Ok(sink)
}
