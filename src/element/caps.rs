// SPDX-License-Identifier: MPL-2.0

//! Which sizes can become which: pure functions on caps.
//!
//! Every structure of caps becomes up to two on the other side: one whose size follows `scale`, and, because a size that
//! the neighbour insists on wins over `scale`, one with every size that some factor from 1 to 8 reaches.

use std::sync::LazyLock;

use gst::prelude::*;
use gst_video::{VideoFormat, VideoInfo};

use super::interlacing;
use super::settings::SCALE_RANGE;
use crate::error::{Error, Result};
use crate::upscaler::{Geometry, Size, SizePolicy};

/// Model frames are multiples of this, which size policies other than `pad` show.
const STEP: i32 = crate::backend::WINDOW_PIXELS as i32;
const MAX_FACTOR: i32 = 8;

/// The formats, in and out. Alpha has 8 or 16 bits, which [`super::alpha`] counts on.
#[rustfmt::skip]
pub const FORMATS: [VideoFormat; 49] = {
    use VideoFormat::*;
    [
        I420, Yv12, Nv12, Nv21, Y42b, Nv16, Y444, Nv24, Y41b, Yuy2, Uyvy, Yvyu, Vyuy,
        Rgb, Bgr, Rgbx, Bgrx, Xrgb, Xbgr, Gbr, Gray8,
        I42010le, I42210le, Y44410le, P01010le, Nv1610le32, V210, I42012le, I42212le, Y44412le, P012Le, P016Le,
        Gbr10le, Gbr12le, Y44416le, Gray16Le,
        Rgba, Bgra, Argb, Abgr, Gbra, Ayuv, Vuya, A420, Av12, Argb64Le, Rgba64Le, Bgra64Le, Abgr64Le,
    ]
};

/// The caps of the source pad.
pub static OUTPUT: LazyLock<gst::Caps> = LazyLock::new(|| {
    gst_video::VideoCapsBuilder::new()
        .format_list(FORMATS)
        .field("interlace-mode", gst_video::VideoInterlaceMode::Progressive.to_str())
        .build()
});

/// The caps of the sink pad: those of the source pad, and what [`interlacing`] refuses.
pub static INPUT: LazyLock<gst::Caps> = LazyLock::new(|| interlacing::with_interlaced(&OUTPUT));

/// How sizes become sizes, as far as caps are concerned.
#[derive(Debug, Clone, Copy)]
pub struct Scaling {
    /// The property `scale`.
    pub scale: f64,
    /// The property `size-policy`.
    pub policy: SizePolicy,
}

/// Values of one side of a picture from the first to the second.
type Span = (i32, i32);

impl Scaling {
    /// The caps of the other pad for `caps` on the pad of `direction`.
    pub fn transform(self, direction: gst::PadDirection, caps: &gst::Caps) -> gst::Caps {
        let output = direction == gst::PadDirection::Sink;
        if caps.is_any() {
            return if output { OUTPUT.clone() } else { INPUT.clone() };
        }
        let mut exact = gst::Caps::new_empty();
        let mut reachable = gst::Caps::new_empty();
        for (structure, features) in caps.iter_with_features() {
            let add = |caps: &mut gst::Caps, map: &dyn Fn(Span) -> Option<Span>, step| {
                let (mut structure, mut features) = (structure.to_owned(), features.to_owned());
                if output {
                    interlacing::make_progressive(&mut structure, &mut features);
                }
                let mapped =
                    map_side(&mut structure, "width", map, step) && map_side(&mut structure, "height", map, step);
                if mapped && (!output || is_representable(&structure)) {
                    caps.make_mut().append_structure_full(structure, Some(features));
                }
            };
            if output {
                let step = self.step();
                add(&mut exact, &|(from, to)| Some((self.output(from), self.output(to))), 1);
                add(&mut reachable, &|(from, to)| multiples(from, to.saturating_mul(MAX_FACTOR), step), step);
            } else {
                add(&mut exact, &|span| self.inputs(span), 1);
                add(&mut reachable, &|(from, to)| Some(((from - 1).max(0) / MAX_FACTOR + 1, to)), 1);
            }
        }
        exact.merge(reachable);
        exact
    }

    /// The size that follows `scale` for a fixed input, if GStreamer has no frames of that size; then nothing offers it.
    pub fn unrepresentable(self, input: &gst::Caps) -> Option<Size> {
        let mut output = input.structure(0)?.to_owned();
        let (width, height) = size(input)?;
        let (width, height) = (self.output(width), self.output(height));
        output.set("width", width);
        output.set("height", height);
        (!is_representable(&output)).then(|| Size::new(width.max(0) as usize, height.max(0) as usize))
    }

    /// Of which number the sides of an output that does not follow `scale` are multiples.
    fn step(self) -> i32 {
        if self.policy == SizePolicy::Pad { 1 } else { STEP }
    }

    /// The output side for an input side of `n` pixels.
    fn output(self, n: i32) -> i32 {
        let scaled = self.scaled(n);
        match self.policy {
            // Nothing would be left of it; it is refused, with the reason, when it is used.
            SizePolicy::Crop if scaled >= STEP => scaled / STEP * STEP,
            _ => scaled,
        }
    }

    fn scaled(self, n: i32) -> i32 {
        let side = usize::try_from(n).unwrap_or(0);
        i32::try_from(Geometry::scaled_size(Size::new(side, side), self.scale).width).unwrap_or(i32::MAX)
    }

    /// The input sides whose output side lies in the span.
    fn inputs(self, (from, to): Span) -> Option<Span> {
        // `output` never falls, so both ends can be found by halving.
        let first = |reached: &dyn Fn(i32) -> bool| {
            let (mut low, mut high) = (1, i32::MAX);
            while low < high {
                let middle = low + (high - low) / 2;
                if reached(self.output(middle)) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            low
        };
        let low = first(&|n| n >= from);
        let high = if self.output(i32::MAX) <= to { i32::MAX } else { first(&|n| n > to) - 1 };
        (low <= high).then_some((low, high))
    }

    /// Fixes the output caps for a fixed input: the size that follows `scale` if it is allowed, else the nearest smaller
    /// one of about the same shape.
    pub fn fixate_output(self, input: &gst::Caps, output: gst::Caps) -> gst::Caps {
        let Some(size) = size(input) else { return fixated(output) };
        let preferred = (self.output(size.0), self.output(size.1));
        let mut output = preferring(output, preferred);
        let Some(structure) = output.make_mut().structure_mut(0) else { return output };
        let (width, height) = fixate_sides(structure, preferred);
        if width < preferred.0 || height < preferred.1 {
            let factor = (f64::from(width) / f64::from(size.0)).min(f64::from(height) / f64::from(size.1));
            let side = |n: i32| (f64::from(n) * factor).round() as i32 / self.step() * self.step();
            fixate_field(structure, "width", side(size.0));
            fixate_field(structure, "height", side(size.1));
        } else {
            fixate_field(structure, "width", preferred.0);
            fixate_field(structure, "height", preferred.1);
        }
        let mut output = fixated(output);
        keep_colorimetry(input, &mut output);
        output
    }

    /// Fixes the input caps for a fixed output.
    pub fn fixate_input(self, output: &gst::Caps, input: gst::Caps) -> gst::Caps {
        let Some((width, height)) = size(output) else { return fixated(input) };
        let side = |n: i32| ((f64::from(n) / self.scale).round() as i32).max(1);
        let preferred = (side(width), side(height));
        let mut input = preferring(input, preferred);
        if let Some(structure) = input.make_mut().structure_mut(0) {
            fixate_field(structure, "width", preferred.0);
            fixate_field(structure, "height", preferred.1);
        }
        fixated(input)
    }

    /// The geometry for negotiated sizes.
    ///
    /// # Errors
    /// [`Error::Settings`] if the sizes do not fit the scale or the policy.
    pub fn geometry(self, input: Size, output: Size) -> Result<Geometry> {
        let followed = Geometry::new(input, Geometry::scaled_size(input, self.scale), self.policy);
        match followed {
            Ok(geometry) if geometry.output == output => return Ok(geometry),
            Err(error) if output == Geometry::scaled_size(input, self.scale) => return Err(error),
            _ => {}
        }
        // Downstream insists on a size of its own.
        for (from, to, side) in [(input.width, output.width, "width"), (input.height, output.height, "height")] {
            let factor = to as f64 / from as f64;
            if !SCALE_RANGE.contains(&factor) {
                return Err(Error::Settings(format!(
                    "cannot scale {input} to {output}: the {side} would change by a factor of {factor:.3}, and factors from \
                     {:.1} to {:.1} are possible; ask for another size downstream, or add videoscale after flashvsr",
                    SCALE_RANGE.start(),
                    SCALE_RANGE.end()
                )));
            }
        }
        let geometry = Geometry::new(input, output, self.policy)?;
        if geometry.output != output {
            return Err(Error::Settings(format!(
                "size-policy=crop cannot give the size {output} that downstream asks for: its sides are no multiples of \
                 {STEP}; set size-policy=pad"
            )));
        }
        Ok(geometry)
    }
}

/// The part of a span that consists of multiples of `step`.
fn multiples(from: i32, to: i32, step: i32) -> Option<Span> {
    let to = to / step * step;
    let from = from.checked_add(step - 1)? / step * step;
    (from <= to).then_some((from, to))
}

/// Replaces the values of a side by those that `map` gives; false if there are none. A side that caps leave open stays open.
fn map_side(structure: &mut gst::Structure, side: &str, map: &dyn Fn(Span) -> Option<Span>, step: i32) -> bool {
    let Ok(value) = structure.value(side) else { return true };
    let spans: Vec<Span> = spans(value).into_iter().filter_map(map).collect();
    let value = |&(from, to): &Span| match from == to {
        true => from.to_send_value(),
        false => gst::IntRange::with_step(from, to, step).to_send_value(),
    };
    match spans.as_slice() {
        [] => return false,
        [span] => structure.set_value(side, value(span)),
        spans => structure.set(side, gst::List::new(spans.iter().map(value))),
    }
    true
}

/// The values of a side: an integer, a range, or a list of these.
fn spans(value: &gst::glib::Value) -> Vec<Span> {
    if let Ok(n) = value.get::<i32>() {
        vec![(n, n)]
    } else if let Ok(range) = value.get::<gst::IntRange<i32>>() {
        vec![(range.min(), range.max())]
    } else if let Ok(list) = value.get::<gst::List>() {
        list.iter().flat_map(|value| spans(value)).collect()
    } else {
        Vec::new()
    }
}

/// Whether GStreamer has frames of this structure's size, in one of its formats at least. A size that is not fixed counts as
/// one that it has.
fn is_representable(structure: &gst::StructureRef) -> bool {
    let (Ok(width), Ok(height)) = (structure.get::<i32>("width"), structure.get::<i32>("height")) else { return true };
    let Ok(value) = structure.value("format") else { return true };
    let fits = |format: &str| {
        let info = VideoInfo::builder(VideoFormat::from_string(format), width as u32, height as u32).build();
        // It does not notice every overflow.
        info.is_ok_and(|info| info.stride().iter().all(|&stride| stride > 0) && i64::try_from(info.size()).is_ok())
    };
    match value.get::<gst::List>() {
        Ok(list) => list.iter().any(|format| format.get::<&str>().is_ok_and(fits)),
        Err(_) => value.get::<&str>().is_ok_and(fits),
    }
}

fn size(caps: &gst::Caps) -> Option<Span> {
    let structure = caps.structure(0)?;
    Some((structure.get("width").ok()?, structure.get("height").ok()?))
}

/// The first structure that allows `size`, or else the first one.
fn preferring(caps: gst::Caps, size: Span) -> gst::Caps {
    let allows = |structure: &gst::StructureRef, side: &str, n: i32| {
        structure.value(side).is_ok_and(|value| value.can_intersect(&n.to_value()))
    };
    let mut first = gst::Caps::new_empty();
    let chosen = caps
        .iter_with_features()
        .find(|(structure, _)| allows(structure, "width", size.0) && allows(structure, "height", size.1))
        .or_else(|| caps.iter_with_features().next());
    if let Some((structure, features)) = chosen {
        first.make_mut().append_structure_full(structure.to_owned(), Some(features.to_owned()));
    }
    first
}

/// The sides nearest to `size` that the structure allows.
fn fixate_sides(structure: &gst::StructureRef, size: Span) -> Span {
    let mut structure = structure.to_owned();
    fixate_field(&mut structure, "width", size.0);
    fixate_field(&mut structure, "height", size.1);
    (structure.get("width").unwrap_or(size.0), structure.get("height").unwrap_or(size.1))
}

fn fixate_field(structure: &mut gst::StructureRef, side: &str, n: i32) {
    if structure.has_field(side) {
        structure.fixate_field_nearest_int(side, n);
    } else {
        structure.set(side, n);
    }
}

fn fixated(mut caps: gst::Caps) -> gst::Caps {
    if !caps.is_empty() {
        caps.fixate();
    }
    caps
}

/// Names the input's colorimetry in the output's caps where its absence would mean another one, which it does when the
/// larger picture passes from SD to HD.
fn keep_colorimetry(input: &gst::Caps, output: &mut gst::Caps) {
    let infos = (gst_video::VideoInfo::from_caps(input), gst_video::VideoInfo::from_caps(output));
    let (Ok(in_info), Ok(out_info)) = infos else { return };
    if in_info.colorimetry() == out_info.colorimetry() {
        return;
    }
    if let Some(structure) = output.make_mut().structure_mut(0).filter(|s| !s.has_field("colorimetry")) {
        structure.set("colorimetry", in_info.colorimetry().to_string());
    }
}

#[cfg(test)]
#[path = "caps_tests.rs"]
mod tests;
