// SPDX-License-Identifier: MPL-2.0

//! Alpha, which the model does not know: it waits in the carrier of its frame, and is resized on the way out.

use gst_video::video_frame::{VideoFrameExt, Writable};
use gst_video::{VideoConverter, VideoFormat, VideoFrame, VideoInfo};

use super::convert::{failed, mapping};
use super::errors::Failure;
use super::mapping;
use crate::upscaler::{Geometry, Size};

type Result<T> = std::result::Result<T, Failure>;

/// Number of the alpha component, in every format that has one.
const ALPHA: u8 = 3;

/// Whether frames of this format have alpha. Its flag does not tell: AV12 has alpha and, in GStreamer 1.22, no flag.
pub fn has_alpha(info: &VideoInfo) -> bool {
    info.n_components() > u32::from(ALPHA)
}

/// Carries the alpha of frames past the model.
pub struct Alpha {
    input: VideoInfo,
    output: VideoInfo,
    /// A kept plane: grey, of the input's size and as many bits as the alpha has.
    kept: VideoInfo,
    /// Bytes of a sample.
    bytes: usize,
    geometry: Geometry,
    /// The plane in the scaled size, reused from frame to frame.
    scaled: VideoFrame<Writable>,
    resizer: VideoConverter,
}

impl Alpha {
    /// For frames of these formats, which differ only in size; `None` if they have no alpha.
    pub fn new(input: &VideoInfo, output: &VideoInfo, geometry: Geometry) -> Result<Option<Self>> {
        if !has_alpha(input) || !has_alpha(output) {
            return Ok(None);
        }
        // The template has no others.
        let (format, bytes) = match input.comp_depth(ALPHA) {
            8 => (VideoFormat::Gray8, 1),
            _ => (VideoFormat::Gray16Le, 2),
        };
        let plane = |width, height| VideoInfo::builder(format, width, height).build().map_err(failed);
        let kept = plane(input.width(), input.height())?;
        let scaled = plane(geometry.scaled.width as u32, geometry.scaled.height as u32)?;
        let mut config = gst_video::VideoConverterConfig::new();
        config.set_resampler_method(gst_video::VideoResamplerMethod::Cubic);
        // The cubic that passes through its samples, as the one for the colours does.
        config.set("GstVideoResampler.cubic-b", 0.0);
        config.set("GstVideoResampler.cubic-c", 0.5);
        let resizer = VideoConverter::new(&kept, &scaled, Some(config)).map_err(failed)?;
        let buffer = gst::Buffer::with_size(scaled.size()).map_err(failed)?;
        let scaled = VideoFrame::from_buffer_writable(buffer, &scaled).map_err(|_| mapping())?;
        Ok(Some(Self { input: input.clone(), output: output.clone(), kept, bytes, geometry, scaled, resizer }))
    }

    /// Copies the alpha of `buffer` into the memory of `carrier`, which has none: a plane, or only one sample where all are
    /// alike, as in an opaque picture.
    pub fn keep(&self, buffer: &gst::BufferRef, carrier: &mut gst::BufferRef) -> Result<()> {
        let frame = mapping::readable(buffer, &self.input)?;
        let (grid, alpha) = (Grid::new(&frame, ALPHA)?, frame.comp_data(ALPHA.into()).map_err(Failure::Map)?);
        if let Some(sample) = grid.only_sample(alpha, self.geometry.input, self.bytes) {
            carrier.append_memory(gst::Memory::from_slice(sample.to_vec()));
            return Ok(());
        }
        let mut plane = vec![0; self.kept.size()];
        let kept = Grid { row: self.kept.comp_stride(0) as usize, pixel: self.bytes };
        copy(alpha, grid, &mut plane, kept, self.geometry.input, self.bytes);
        carrier.append_memory(gst::Memory::from_slice(plane));
        Ok(())
    }

    /// Writes the alpha that `carrier` keeps into `buffer`, an output frame.
    pub fn restore(&mut self, carrier: &gst::BufferRef, buffer: &mut gst::BufferRef) -> Result<()> {
        let mut frame = mapping::writable(buffer, &self.output)?;
        let grid = Grid::new(&frame, ALPHA)?;
        let alpha = frame.comp_data_mut(ALPHA.into()).map_err(Failure::Map)?;
        let Geometry { crop, output, .. } = self.geometry;
        if carrier.size() == self.bytes {
            let sample = carrier.map_readable().map_err(failed)?;
            for row in alpha.chunks_mut(grid.row).take(output.height) {
                for (lane, &byte) in sample.iter().enumerate() {
                    row.iter_mut().skip(lane).step_by(grid.pixel).take(output.width).for_each(|to| *to = byte);
                }
            }
            return Ok(());
        }
        {
            let kept = mapping::readable(carrier, &self.kept)?;
            self.resizer.frame_ref(&kept, &mut self.scaled.as_mut_video_frame_ref());
        }
        let scaled = Grid::new(&self.scaled, 0)?;
        let plane = self.scaled.plane_data(0).map_err(failed)?;
        let shown = plane.get(crop.1 * scaled.row + crop.0 * scaled.pixel..).unwrap_or_default();
        copy(shown, scaled, alpha, grid, output, self.bytes);
        Ok(())
    }
}

/// Where the samples of a component lie in its data: bytes from row to row, and from pixel to pixel.
#[derive(Debug, Clone, Copy)]
struct Grid {
    row: usize,
    pixel: usize,
}

impl Grid {
    fn new(frame: &impl VideoFrameExt, component: u8) -> Result<Self> {
        let positive = |n: i32| {
            let n = usize::try_from(n).ok().filter(|&n| n > 0);
            n.ok_or_else(|| Failure::Map(gst::glib::bool_error!("a stride is not positive")))
        };
        let component = component.into();
        Ok(Self { row: positive(frame.comp_stride(component))?, pixel: positive(frame.comp_pstride(component))? })
    }

    /// The sample of `bytes` bytes that every pixel has, if they are all alike.
    fn only_sample(self, data: &[u8], size: Size, bytes: usize) -> Option<&[u8]> {
        let first = data.get(..bytes)?;
        let alike = |row: &[u8]| {
            let lanes = first.iter().enumerate();
            lanes
                .into_iter()
                .all(|(lane, byte)| row.iter().skip(lane).step_by(self.pixel).take(size.width).all(|n| n == byte))
        };
        data.chunks(self.row).take(size.height).all(alike).then_some(first)
    }
}

/// Copies the samples, of `bytes` bytes each, of a picture of this size.
fn copy(from: &[u8], from_grid: Grid, to: &mut [u8], to_grid: Grid, size: Size, bytes: usize) {
    let rows = from.chunks(from_grid.row).zip(to.chunks_mut(to_grid.row)).take(size.height);
    for (from, to) in rows {
        for lane in 0..bytes {
            let from = from.iter().skip(lane).step_by(from_grid.pixel);
            let to = to.iter_mut().skip(lane).step_by(to_grid.pixel);
            from.zip(to).take(size.width).for_each(|(from, to)| *to = *from);
        }
    }
}

#[cfg(test)]
#[path = "alpha_tests.rs"]
mod tests;
