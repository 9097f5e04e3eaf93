// SPDX-License-Identifier: MPL-2.0

//! Video formats as layouts of the upscaler, and mapped buffers as its frames, without a copy.

use gst_video::prelude::*;
use gst_video::{VideoChromaSite, VideoColorRange, VideoFormat, VideoFrameRef, VideoInfo};

use super::convert::{depth, failed};
use super::errors::Failure;
use crate::upscaler::{
    Chroma, Color, Component, Format, Frame, FrameMut, Layout, PLANES, Plane, PlaneMut, Samples, SamplesMut,
};

type Result<T> = std::result::Result<T, Failure>;

/// How the upscaler sees buffers of this format: as they are if there is a layout of them, else as packed RGB.
pub fn format(info: &VideoInfo) -> Format {
    layout(info).map_or_else(|| Format::Rgb(depth(info)), Format::Video)
}

/// The layout of buffers of this format; `None` where there is none, or where it would not tell all.
fn layout(info: &VideoInfo) -> Option<Layout> {
    let format = info.format_info();
    let alike = |values: &[u32]| values.iter().take(3).all(|n| *n == values[0]).then_some(values[0]);
    let (bits, shift) = (alike(format.depth())?, alike(format.shift())?);
    let bytes = if bits + shift > 8 { 2 } else { 1 };
    let foreign = bytes == 2 && format.is_le() != cfg!(target_endian = "little");
    // What GStreamer 1.22 says of VYUY is what UYVY is like.
    let misdescribed = info.format() == VideoFormat::Vyuy;
    if format.n_components() < 3 || format.is_complex() || format.is_tiled() || foreign || misdescribed {
        return None;
    }
    let component = |i: usize| {
        let (plane, step) = (format.plane()[i] as usize, usize::try_from(format.pixel_stride()[i]).ok()?);
        // Of P010 and the like GStreamer 1.22 gives the offset of Cr in samples and not in bytes.
        let offset = format.poffset()[i] as usize;
        let offset = if offset.is_multiple_of(bytes) { offset / bytes } else { offset };
        (plane < PLANES && step >= bytes).then_some(Component { plane, offset, step: step / bytes })
    };
    let components = [component(0)?, component(1)?, component(2)?];
    let site = info.chroma_site();
    let axis = |halvings: u32, cosited: VideoChromaSite| match halvings {
        0 => Some(Chroma::Full),
        1 if site.contains(cosited) => Some(Chroma::Cosited),
        1 => Some(Chroma::Centred),
        _ => None,
    };
    let across = axis(format.w_sub()[1], VideoChromaSite::H_COSITED)?;
    let down = axis(format.h_sub()[1], VideoChromaSite::V_COSITED)?;
    // The lines of a DV frame alternate between Cb and Cr; packed 4:2:2 of an odd width ends with a sample of no pixel.
    let alternating = site.contains(VideoChromaSite::ALT_LINE) && down != Chroma::Full;
    let leftover = components[0].step == 2 && !info.width().is_multiple_of(2);
    if alternating || leftover {
        return None;
    }
    Some(Layout { components, filler: filler(components), bits, shift, across, down, color: color(info)? })
}

/// The sample beside three others of a pixel.
fn filler(components: [Component; 3]) -> Option<Component> {
    let [first, ..] = components;
    let packed = components.iter().all(|c| (c.plane, c.step) == (first.plane, 4));
    let free = (0..4).find(|offset| components.iter().all(|c| c.offset != *offset));
    packed.then_some(Component { offset: free?, ..first })
}

/// What the components mean.
fn color(info: &VideoInfo) -> Option<Color> {
    let (format, colorimetry) = (info.format_info(), info.colorimetry());
    if format.is_rgb() {
        // RGB of unknown range is full range, see `depth`.
        return (colorimetry.range() != VideoColorRange::Range16_235).then_some(Color::Rgb);
    }
    let full_range = match colorimetry.range() {
        VideoColorRange::Range0_255 => true,
        VideoColorRange::Range16_235 => false,
        _ => return None,
    };
    let (kr, kb) = colorimetry.matrix().kr_kb().ok()?;
    format.is_yuv().then_some(Color::Ycbcr { kr, kb, full_range })
}

/// The bytes from row to row of each plane.
fn strides(frame: &impl VideoFrameExt) -> Result<[usize; PLANES]> {
    let mut strides = [0; PLANES];
    for (to, stride) in strides.iter_mut().zip(frame.plane_stride()) {
        let negative = || Failure::Map(gst::glib::bool_error!("a stride is negative"));
        *to = usize::try_from(*stride).map_err(|_| negative())?;
    }
    Ok(strides)
}

/// The picture of `info`'s size in a mapped buffer, whose frame may be larger.
pub fn in_place<'a>(frame: &'a VideoFrameRef<&gst::BufferRef>, info: &VideoInfo, layout: Layout) -> Result<Frame<'a>> {
    let mut planes = [Plane::default(); PLANES];
    for ((number, plane), stride) in (0..frame.n_planes()).zip(&mut planes).zip(strides(frame)?) {
        *plane = Plane { bytes: frame.plane_data(number).map_err(failed)?, stride };
    }
    let (width, height) = (info.width() as usize, info.height() as usize);
    Ok(Frame { width, height, stride: 0, samples: Samples::Planes(layout, planes) })
}

/// The picture of `info`'s size in a buffer that is mapped for writing, whose frame may be larger.
pub fn in_place_mut<'a>(
    frame: &'a mut VideoFrameRef<&mut gst::BufferRef>,
    info: &VideoInfo,
    layout: Layout,
) -> Result<FrameMut<'a>> {
    let (width, height, strides) = (info.width() as usize, info.height() as usize, strides(frame)?);
    let mut planes: [PlaneMut<'a>; PLANES] = Default::default();
    let data = frame.planes_data_mut();
    for ((plane, bytes), stride) in planes.iter_mut().zip(data).zip(strides) {
        *plane = PlaneMut { bytes, stride };
    }
    Ok(FrameMut { width, height, stride: 0, samples: SamplesMut::Planes(layout, planes) })
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;

#[cfg(all(test, feature = "emulator"))]
#[path = "device_tests.rs"]
mod device_tests;
