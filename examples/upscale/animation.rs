// SPDX-License-Identifier: MPL-2.0

//! Animations as input: GIF, animated WebP and animated PNG. GStreamer gives all frames of a GIF one time, spins for ever on
//! some, and knows the first frame of the others.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Once};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use image::codecs::{gif::GifDecoder, png::PngDecoder, webp::WebPDecoder};
use image::{AnimationDecoder, Frame, Frames};

use crate::length::Length;

/// Times of less than this are not meant: players show such a frame for [`USUAL`].
const LEAST: Duration = Duration::from_millis(20);
const USUAL: Duration = Duration::from_millis(100);

/// File formats of animations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// GIF, of one frame or more.
    Gif,
    /// WebP of several frames.
    WebP,
    /// PNG of several frames.
    Png,
}

impl Format {
    /// The format of a file, if it is an animation.
    pub fn of(path: &Path) -> Option<Self> {
        let mut file = BufReader::new(File::open(path).ok()?);
        let mut start = [0; 12];
        file.read_exact(&mut start).ok()?;
        let file = BufReader::new(File::open(path).ok()?);
        match &start {
            [b'G', b'I', b'F', b'8', ..] => Some(Self::Gif),
            [b'R', b'I', b'F', b'F', .., b'W', b'E', b'B', b'P'] => {
                WebPDecoder::new(file).is_ok_and(|decoder| decoder.has_animation()).then_some(Self::WebP)
            }
            [0x89, b'P', b'N', b'G', ..] => {
                PngDecoder::new(file).and_then(|decoder| decoder.is_apng()).unwrap_or(false).then_some(Self::Png)
            }
            _ => None,
        }
    }

    /// The frames of a file, each as large as the whole.
    fn frames(self, path: &Path) -> Result<Frames<'static>> {
        let file = BufReader::new(File::open(path)?);
        Ok(match self {
            Self::Gif => GifDecoder::new(file)?.into_frames(),
            Self::WebP => WebPDecoder::new(file)?.into_frames(),
            Self::Png => PngDecoder::new(file)?.apng()?.into_frames(),
        })
    }
}

/// An element that gives the frames of an animation. One that is cut off ends where it does, and `length` learns of it.
///
/// # Errors
/// If GStreamer lacks it.
pub fn source(path: &Path, format: Format, length: Arc<Length>) -> Result<gst::Element> {
    let source = gst_app::AppSrc::builder().format(gst::Format::Time).block(true).max_buffers(2).build();
    let (path, begun) = (path.to_owned(), Once::new());
    source.set_callbacks(
        gst_app::AppSrcCallbacks::builder()
            .need_data(move |source, _| {
                // The decoders cannot go from one thread to another.
                begun.call_once(|| {
                    let (source, path, length) = (source.clone(), path.clone(), length.clone());
                    thread::spawn(move || {
                        if let Err(error) = feed(&source, format, &path, &length) {
                            gst::element_error!(source, gst::StreamError::Decode, ("{error:#}"));
                        }
                    });
                });
            })
            .build(),
    );
    Ok(source.upcast())
}

fn feed(source: &gst_app::AppSrc, format: Format, path: &Path, length: &Length) -> Result<()> {
    let broken = "the animation cannot be decoded";
    let mut time = Duration::ZERO;
    for frame in format.frames(path).context(broken)? {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) if time.is_zero() => return Err(error).context(broken),
            Err(error) => {
                length.broke_off(&error.to_string());
                break;
            }
        };
        let duration = duration(&frame);
        let buffer = buffer(frame, time, duration, source)?;
        time += duration;
        if source.push_buffer(buffer).is_err() {
            // The job has ended.
            return Ok(());
        }
    }
    // As above.
    let _ = source.end_of_stream();
    Ok(())
}

/// A buffer of a frame; the first one tells the size.
fn buffer(frame: Frame, time: Duration, duration: Duration, source: &gst_app::AppSrc) -> Result<gst::Buffer> {
    let pixels = frame.into_buffer();
    if source.caps().is_none() {
        let info =
            gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgba, pixels.width(), pixels.height()).build()?;
        source.set_caps(Some(&info.to_caps()?));
    }
    let mut buffer = gst::Buffer::from_mut_slice(pixels.into_raw());
    let writable = buffer.get_mut().context("a new buffer is shared")?;
    writable.set_pts(gst::ClockTime::try_from(time)?);
    writable.set_duration(gst::ClockTime::try_from(duration)?);
    Ok(buffer)
}

/// How long players show a frame.
fn duration(frame: &Frame) -> Duration {
    let duration = Duration::from(frame.delay());
    if duration < LEAST { USUAL } else { duration }
}

#[cfg(test)]
mod tests {
    use image::codecs::gif::GifEncoder;
    use image::{Delay, RgbaImage};

    use super::*;

    #[test]
    fn a_gif_is_known_by_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("film.mp4");
        let mut encoder = GifEncoder::new(File::create(&path).unwrap());
        for delay in [0, 50] {
            let delay = Delay::from_saturating_duration(Duration::from_millis(delay));
            encoder.encode_frame(Frame::from_parts(RgbaImage::new(4, 3), 0, 0, delay)).unwrap();
        }
        drop(encoder);
        assert_eq!(Format::of(&path), Some(Format::Gif));
        let frames = Format::Gif.frames(&path).unwrap();
        assert!(frames.map(|frame| duration(&frame.unwrap())).eq([USUAL, Duration::from_millis(50)]));
        std::fs::write(&path, "GIF").unwrap();
        assert_eq!(Format::of(&path), None);
    }
}
