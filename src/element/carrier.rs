// SPDX-License-Identifier: MPL-2.0

//! Carriers: buffers without the pixels, that keep what a frame brought along besides them. Holding the input buffers themselves
//! would starve the fixed pools of decoders and cameras.

use gst::meta::tags;
use gst_video::VideoRegionOfInterestMeta;

use crate::upscaler::Geometry;

/// An empty buffer with the flags, timestamps, offsets and metas of `buffer`.
pub fn carrier(buffer: &gst::BufferRef) -> gst::Buffer {
    let mut carrier = gst::Buffer::new();
    {
        let carrier = carrier.make_mut();
        // Only fails where memory is copied.
        let _ = buffer.copy_into(carrier, gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS, ..);
        let whole = gst::meta::MetaTransformCopy::new(..);
        for meta in buffer.iter_meta::<gst::Meta>() {
            // Metas about the memory would keep it alive, or lie about ours.
            if !meta.has_tag::<tags::Memory>() && !meta.has_tag::<tags::MemoryReference>() {
                // A meta that refuses to be copied stays behind, as in every element.
                let _ = meta.transform(carrier, &whole);
            }
        }
    }
    carrier
}

/// Adds `region`, scaled by `geometry`, to `out`. A region that the output does not show is dropped.
pub fn scale_region(out: &mut gst::BufferRef, region: &VideoRegionOfInterestMeta, geometry: &Geometry) {
    let (x, y, width, height) = region.rect();
    let side = |from: u32, len: u32, input: usize, scaled: usize, crop: usize, output: usize| {
        let map = |n: u64| {
            let n = (n * scaled as u64 + input as u64 / 2) / input as u64;
            n.saturating_sub(crop as u64).min(output as u64) as u32
        };
        let (start, end) = (map(from.into()), map(u64::from(from) + u64::from(len)));
        (start, end - start)
    };
    let Geometry { input, scaled, crop, output, .. } = geometry;
    let (x, width) = side(x, width, input.width, scaled.width, crop.0, output.width);
    let (y, height) = side(y, height, input.height, scaled.height, crop.1, output.height);
    if width == 0 || height == 0 {
        return;
    }
    let mut scaled = VideoRegionOfInterestMeta::add(out, region.roi_type(), (x, y, width, height));
    scaled.set_id(region.id());
    scaled.set_parent_id(region.parent_id());
    for param in region.params() {
        scaled.add_param(param.to_owned());
    }
}
