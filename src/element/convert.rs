// SPDX-License-Identifier: MPL-2.0

//! Buffers as frames of the upscaler: as they are where their format has a [`Layout`], and otherwise every pixel format into
//! packed RGB and back, by `GstVideoConverter`.
//!
//! Only matrix and range change: the RGB side has the primaries and the transfer function of the other side, so colours and
//! gamma are the source's. All that is not full-range RGB or grey of 8 bits goes through 16 bits: the converter's 8-bit matrix
//! arithmetic would darken it by three levels. And since it widens 8 bits by repeating them, which is right for full-range
//! RGB only, and narrows 16 bits by truncating them, YCbCr of 8 bits takes a second step in which we make these a shift and
//! a rounding (`Wide`).

use gst_video::prelude::*;
use gst_video::video_frame::Writable;
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoFrameRef, VideoInfo};

use super::errors::Failure;
use super::layout::{in_place, in_place_mut};
use super::mapping;
use crate::error::Error;
use crate::upscaler::{Depth, Format, Frame, FrameMut, Layout, Samples, SamplesMut};

type Result<T> = std::result::Result<T, Failure>;

/// One RGB picture, reused from frame to frame.
struct Scratch {
    frame: VideoFrame<Writable>,
    /// The picture without alpha, where the converter only has formats with: those of 16 bits.
    packed: Option<Vec<u16>>,
}

/// Reads buffers.
pub struct Reader {
    info: VideoInfo,
    way: Way,
}

/// Writes buffers.
pub struct Writer {
    info: VideoInfo,
    way: Way,
}

/// How pixels pass between a buffer and the upscaler.
enum Way {
    /// As they are.
    Direct(Layout),
    /// By way of packed RGB.
    Rgb(Box<Rgb>),
}

/// What packed RGB takes.
struct Rgb {
    converter: VideoConverter,
    scratch: Scratch,
    wide: Option<Wide>,
}

/// A picture in YCbCr of 16 bits, between YCbCr of 8 bits and RGB, and what takes it from or to the 8 bits.
struct Wide {
    frame: VideoFrame<Writable>,
    converter: VideoConverter,
}

impl Reader {
    /// A reader of buffers of this format and size, which the upscaler sees as `format`: [`super::layout::format`]'s, or RGB.
    pub fn new(info: &VideoInfo, format: Format) -> Result<Self> {
        let way = match format {
            Format::Video(layout) => Way::Direct(layout),
            Format::Rgb(_) => {
                let (rgb, scratch) = Scratch::new(info)?;
                let wide = Wide::new(info, |wide| converter(info, wide))?;
                let converter = converter(wide.as_ref().map_or(info, |wide| wide.frame.info()), &rgb)?;
                Way::Rgb(Box::new(Rgb { converter, scratch, wide }))
            }
        };
        Ok(Self { info: info.clone(), way })
    }

    /// Lets `take` take the picture in `buffer`.
    pub fn read(&mut self, buffer: &gst::BufferRef, take: impl FnOnce(&Frame<'_>) -> crate::Result<()>) -> Result<()> {
        let frame = mapping::readable(buffer, &self.info)?;
        match &mut self.way {
            Way::Direct(layout) => take(&in_place(&frame, &self.info, *layout)?)?,
            Way::Rgb(rgb) => take(&rgb.read(&frame)?)?,
        }
        Ok(())
    }
}

impl Writer {
    /// A writer of buffers of this format and size, which the upscaler sees as `format`: [`super::layout::format`]'s, or RGB.
    pub fn new(info: &VideoInfo, format: Format) -> Result<Self> {
        let way = match format {
            Format::Video(layout) => Way::Direct(layout),
            Format::Rgb(_) => {
                let (rgb, scratch) = Scratch::new(info)?;
                let wide = Wide::new(info, |wide| converter(wide, info))?;
                let converter = converter(&rgb, wide.as_ref().map_or(info, |wide| wide.frame.info()))?;
                Way::Rgb(Box::new(Rgb { converter, scratch, wide }))
            }
        };
        Ok(Self { info: info.clone(), way })
    }

    /// Lets `paint` paint a picture, and writes it into `buffer`.
    pub fn write(
        &mut self,
        buffer: &mut gst::BufferRef,
        paint: impl FnOnce(&mut FrameMut<'_>) -> crate::Result<()>,
    ) -> Result<()> {
        let info = &self.info;
        match &mut self.way {
            Way::Direct(layout) => paint(&mut in_place_mut(&mut mapping::writable(buffer, info)?, info, *layout)?)?,
            Way::Rgb(rgb) => {
                paint(&mut rgb.scratch.picture_mut()?)?;
                rgb.write(&mut mapping::writable(buffer, info)?)?;
            }
        }
        Ok(())
    }
}

impl Rgb {
    fn read(&mut self, frame: &VideoFrameRef<&gst::BufferRef>) -> Result<Frame<'_>> {
        let Self { converter, scratch, wide } = self;
        let mut rgb = scratch.frame.as_mut_video_frame_ref();
        match wide {
            None => converter.frame_ref(frame, &mut rgb),
            Some(wide) => {
                wide.converter.frame_ref(frame, &mut wide.frame.as_mut_video_frame_ref());
                wide.map(|sample| sample & !0xff)?;
                converter.frame_ref(&wide.frame.as_video_frame_ref(), &mut rgb);
            }
        }
        drop(rgb);
        scratch.picture()
    }

    fn write(&mut self, frame: &mut VideoFrameRef<&mut gst::BufferRef>) -> Result<()> {
        self.scratch.unpack()?;
        let painted = self.scratch.frame.as_video_frame_ref();
        match &mut self.wide {
            None => self.converter.frame_ref(&painted, frame),
            Some(wide) => {
                const HALF_LEVEL: u16 = 1 << 7;
                self.converter.frame_ref(&painted, &mut wide.frame.as_mut_video_frame_ref());
                wide.map(|sample| sample.saturating_add(HALF_LEVEL))?;
                wide.converter.frame_ref(&wide.frame.as_video_frame_ref(), frame);
            }
        }
        Ok(())
    }
}

impl Wide {
    /// The picture beside `info`, if that is YCbCr of 8 bits; `converter` makes a converter for its format.
    fn new(info: &VideoInfo, converter: impl FnOnce(&VideoInfo) -> Result<VideoConverter>) -> Result<Option<Self>> {
        let format = info.format_info();
        if !format.is_yuv() || format.depth().iter().any(|&bits| bits > 8) {
            return Ok(None);
        }
        let wide = VideoInfo::builder(VideoFormat::Ayuv64, info.width(), info.height())
            .colorimetry(&info.colorimetry())
            .chroma_site(info.chroma_site())
            .fps(info.fps())
            .interlace_mode(info.interlace_mode())
            .build()
            .map_err(failed)?;
        Ok(Some(Self { frame: blank(&wide)?, converter: converter(&wide)? }))
    }

    /// Changes every sample.
    fn map(&mut self, change: impl Fn(u16) -> u16) -> Result<()> {
        for bytes in self.frame.plane_data_mut(0).map_err(failed)?.as_chunks_mut::<2>().0 {
            *bytes = change(u16::from_ne_bytes(*bytes)).to_ne_bytes();
        }
        Ok(())
    }
}

/// A picture in a buffer of our own.
fn blank(info: &VideoInfo) -> Result<VideoFrame<Writable>> {
    let buffer = gst::Buffer::with_size(info.size()).map_err(failed)?;
    VideoFrame::from_buffer_writable(buffer, info).map_err(|_| mapping())
}

/// Refuses the widths of NV16_10LE32 for which GStreamer counts one word too few: the last Cr of a row has no place. It is read
/// from behind the row, and in the last row from behind the buffer.
fn check_rows(info: &VideoInfo) -> Result<()> {
    // Three samples in a word: as many of luma as pixels, and of chroma an even number.
    let width = info.width();
    if info.format() == VideoFormat::Nv1610le32 && width.next_multiple_of(2).div_ceil(3) > width.div_ceil(3) {
        return Err(Failure::Upscaler(Error::Settings(format!(
            "NV16_10LE32 has no room for the chroma of the last of {width} columns; take an even width (videoscale, videocrop) \
             or another format (videoconvert)"
        ))));
    }
    Ok(())
}

/// Bits of the samples that the upscaler sees of buffers of this format.
pub fn depth(info: &VideoInfo) -> Depth {
    let format = info.format_info();
    // RGB of unknown range is what rawvideoparse says; it is full range.
    let plain = (format.is_rgb() || format.is_gray())
        && info.colorimetry().range() != gst_video::VideoColorRange::Range16_235
        && format.depth().iter().all(|&bits| bits <= 8);
    if plain { Depth::Eight } else { Depth::Sixteen }
}

impl Scratch {
    /// The RGB side of a conversion from or to `info`.
    fn new(info: &VideoInfo) -> Result<(VideoInfo, Self)> {
        check_rows(info)?;
        let plain = depth(info) == Depth::Eight;
        let format = if plain { VideoFormat::Rgb } else { VideoFormat::Argb64 };
        let colorimetry = gst_video::VideoColorimetry::new(
            gst_video::VideoColorRange::Range0_255,
            gst_video::VideoColorMatrix::Rgb,
            info.colorimetry().transfer(),
            info.colorimetry().primaries(),
        );
        let rgb = VideoInfo::builder(format, info.width(), info.height())
            .colorimetry(&colorimetry)
            .fps(info.fps())
            .interlace_mode(info.interlace_mode())
            .build()
            .map_err(failed)?;
        let frame = blank(&rgb)?;
        let packed = (!plain).then(|| vec![0; 3 * info.width() as usize * info.height() as usize]);
        Ok((rgb, Self { frame, packed }))
    }

    fn size(&self) -> (usize, usize) {
        (self.frame.width() as usize, self.frame.height() as usize)
    }

    fn stride(&self) -> usize {
        self.frame.plane_stride().first().copied().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    }

    fn picture(&mut self) -> Result<Frame<'_>> {
        let ((width, height), stride) = (self.size(), self.stride());
        let plane = self.frame.plane_data(0).map_err(failed)?;
        Ok(match &mut self.packed {
            None => Frame { width, height, stride, samples: Samples::U8(plane) },
            Some(packed) => {
                let rows = packed.chunks_exact_mut(3 * width).zip(plane.chunks(stride));
                for (packed, argb) in rows {
                    for (rgb, argb) in packed.chunks_exact_mut(3).zip(argb.chunks_exact(8)) {
                        for (sample, bytes) in rgb.iter_mut().zip(argb[2..].chunks_exact(2)) {
                            *sample = u16::from_ne_bytes([bytes[0], bytes[1]]);
                        }
                    }
                }
                Frame { width, height, stride: 3 * width, samples: Samples::U16(packed) }
            }
        })
    }

    fn picture_mut(&mut self) -> Result<FrameMut<'_>> {
        let ((width, height), stride) = (self.size(), self.stride());
        Ok(match &mut self.packed {
            None => {
                let plane = self.frame.plane_data_mut(0).map_err(failed)?;
                FrameMut { width, height, stride, samples: SamplesMut::U8(plane) }
            }
            Some(packed) => FrameMut { width, height, stride: 3 * width, samples: SamplesMut::U16(packed) },
        })
    }

    /// Brings what was painted to where the converter reads it.
    fn unpack(&mut self) -> Result<()> {
        let ((width, _), stride) = (self.size(), self.stride());
        let Some(packed) = &self.packed else { return Ok(()) };
        let plane = self.frame.plane_data_mut(0).map_err(failed)?;
        for (packed, argb) in packed.chunks_exact(3 * width).zip(plane.chunks_mut(stride)) {
            for (rgb, argb) in packed.chunks_exact(3).zip(argb.chunks_exact_mut(8)) {
                argb[..2].copy_from_slice(&u16::MAX.to_ne_bytes());
                for (sample, bytes) in rgb.iter().zip(argb[2..].chunks_exact_mut(2)) {
                    bytes.copy_from_slice(&sample.to_ne_bytes());
                }
            }
        }
        Ok(())
    }
}

fn converter(from: &VideoInfo, to: &VideoInfo) -> Result<VideoConverter> {
    VideoConverter::new(from, to, None).map_err(failed)
}

/// The failure of a conversion.
pub fn failed(error: gst::glib::BoolError) -> Failure {
    Failure::Upscaler(Error::Compute(format!("video conversion: {error}")))
}

/// The failure to map a buffer of our own.
pub fn mapping() -> Failure {
    Failure::Upscaler(Error::Compute(String::from("video conversion: a buffer of our own cannot be mapped")))
}

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
