// SPDX-License-Identifier: MPL-2.0

//! Pictures at the edge of the network: frames in host memory, and how a frame of one size becomes a frame of another.

use super::layout::{Extent, Format, Layout, PLANES};
use crate::error::{Error, Result};

/// Side of an attention window in pixels: 8 tokens of 16 pixels. Model frames are multiples of it.
pub const WINDOW_PIXELS: usize = 128;

/// Bits of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Depth {
    /// 0..=255.
    #[default]
    Eight,
    /// 0..=65535.
    Sixteen,
}

impl Depth {
    /// Bytes of a sample.
    pub fn bytes(self) -> usize {
        match self {
            Depth::Eight => 1,
            Depth::Sixteen => 2,
        }
    }

    /// The largest sample.
    pub fn largest(self) -> f64 {
        match self {
            Depth::Eight => u8::MAX.into(),
            Depth::Sixteen => u16::MAX.into(),
        }
    }
}

/// Samples of a picture.
#[derive(Debug, Clone, Copy)]
pub enum Samples<'a> {
    /// Packed RGB, three samples per pixel of 8 bits, 0..=255.
    U8(&'a [u8]),
    /// Packed RGB, three samples per pixel of 16 bits, 0..=65535, for sources of more than 8 bits.
    U16(&'a [u16]),
    /// Planes in this layout. Those that it does not have are not looked at.
    Planes(Layout, [Plane<'a>; PLANES]),
}

/// A plane of a picture.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plane<'a> {
    /// Its rows.
    pub bytes: &'a [u8],
    /// Bytes from the start of one row to the start of the next.
    pub stride: usize,
}

/// A borrowed picture: packed RGB of full range, or planes.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Of packed RGB the samples from the start of one row to the start of the next; at least `3 * width`. Planes have strides
    /// of their own.
    pub stride: usize,
    /// The samples; the last row of packed RGB may end after `3 * width` of them.
    pub samples: Samples<'a>,
}

/// Samples of a picture to be written.
#[derive(Debug)]
pub enum SamplesMut<'a> {
    /// Packed RGB, 8 bits per sample.
    U8(&'a mut [u8]),
    /// Packed RGB, 16 bits per sample.
    U16(&'a mut [u16]),
    /// Planes in this layout. Those that it does not have are left alone.
    Planes(Layout, [PlaneMut<'a>; PLANES]),
}

/// A plane of a picture to be written.
#[derive(Debug, Default)]
pub struct PlaneMut<'a> {
    /// Its rows.
    pub bytes: &'a mut [u8],
    /// Bytes from the start of one row to the start of the next.
    pub stride: usize,
}

/// A picture to be written: packed RGB of full range, or planes.
#[derive(Debug)]
pub struct FrameMut<'a> {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Of packed RGB the samples from the start of one row to the start of the next; at least `3 * width`. Planes have strides
    /// of their own.
    pub stride: usize,
    /// The samples; the last row of packed RGB may end after `3 * width` of them.
    pub samples: SamplesMut<'a>,
}

impl SamplesMut<'_> {
    /// What they are.
    pub fn format(&self) -> Format {
        match self {
            SamplesMut::U8(_) => Format::Rgb(Depth::Eight),
            SamplesMut::U16(_) => Format::Rgb(Depth::Sixteen),
            SamplesMut::Planes(layout, _) => Format::Video(*layout),
        }
    }
}

impl Frame<'_> {
    /// Width and height.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// Checks that every row lies within the samples.
    pub fn check(&self) -> Result<()> {
        let rows = Extent { row: 3 * self.width, rows: self.height };
        let packed = |len| check_rows("input", self.size(), rows, self.stride, len, "samples");
        match &self.samples {
            Samples::U8(s) => packed(s.len()),
            Samples::U16(s) => packed(s.len()),
            Samples::Planes(layout, planes) => {
                check_planes("input", self.size(), layout, planes.map(|plane| (plane.stride, plane.bytes.len())))
            }
        }
    }
}

impl FrameMut<'_> {
    /// Width and height.
    pub fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }

    /// Checks that every row lies within the samples.
    pub fn check(&self) -> Result<()> {
        let rows = Extent { row: 3 * self.width, rows: self.height };
        let packed = |len| check_rows("output", self.size(), rows, self.stride, len, "samples");
        match &self.samples {
            SamplesMut::U8(s) => packed(s.len()),
            SamplesMut::U16(s) => packed(s.len()),
            SamplesMut::Planes(layout, planes) => {
                let planes = planes.each_ref().map(|plane| (plane.stride, plane.bytes.len()));
                check_planes("output", self.size(), layout, planes)
            }
        }
    }
}

/// Checks the strides and the lengths of planes.
fn check_planes(what: &str, size: Size, layout: &Layout, planes: [(usize, usize); PLANES]) -> Result<()> {
    layout.check()?;
    let extents = layout.extents(size);
    let mut planes = extents.into_iter().zip(planes).filter(|(extent, _)| *extent != Extent::default());
    planes.try_for_each(|(extent, (stride, len))| check_rows(what, size, extent, stride, len, "bytes"))
}

/// Checks that the rows of a plane, `stride` apart, lie within `len`, all in this unit.
fn check_rows(what: &str, size: Size, extent: Extent, stride: usize, len: usize, unit: &str) -> Result<()> {
    let Extent { row, rows } = extent;
    let fits = size.width > 0
        && size.height > 0
        && stride >= row
        && stride.checked_mul(rows - 1).and_then(|n| n.checked_add(row)).is_some_and(|n| n <= len);
    if fits {
        Ok(())
    } else {
        Err(Error::Settings(format!("{what} frame of {size}, stride {stride}, does not fit its {len} {unit}")))
    }
}

/// A width and a height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
}

impl Size {
    /// A size from its two sides.
    pub const fn new(width: usize, height: usize) -> Self {
        Self { width, height }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// What to do with an output size that is no multiple of [`WINDOW_PIXELS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SizePolicy {
    /// Run the model on the next larger multiple, edges replicated, and cut back: the output size is exact.
    #[default]
    Pad,
    /// Cut the centre of the next smaller multiple out, as the reference does: the output is smaller.
    Crop,
    /// Refuse.
    Fail,
}

/// How an input frame becomes a model frame and a model frame an output frame.
///
/// The input is resized to `scaled`. The model frame shows it from column and row `crop` on, and repeats the last column
/// and row where it is larger. The output is the top left `output` of the model frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Size of the input frames.
    pub input: Size,
    /// Size to which an input frame is resized.
    pub scaled: Size,
    /// Offset of the model frame in the scaled one.
    pub crop: (usize, usize),
    /// Size of the model frames, both sides multiples of [`WINDOW_PIXELS`].
    pub model: Size,
    /// Size of the output frames.
    pub output: Size,
}

impl Geometry {
    /// The geometry that turns `input` into `scaled` under `policy`.
    ///
    /// # Errors
    /// [`Error::Settings`] if a side is 0, if [`SizePolicy::Fail`] meets a size that is no multiple of 128, or if
    /// [`SizePolicy::Crop`] leaves nothing.
    pub fn new(input: Size, scaled: Size, policy: SizePolicy) -> Result<Self> {
        if input.width == 0 || input.height == 0 || scaled.width == 0 || scaled.height == 0 {
            return Err(Error::Settings(format!("cannot scale {input} to {scaled}")));
        }
        let up = |n: usize| n.next_multiple_of(WINDOW_PIXELS);
        let down = |n: usize| n / WINDOW_PIXELS * WINDOW_PIXELS;
        let exact = up(scaled.width) == scaled.width && up(scaled.height) == scaled.height;
        let (model, crop, output) = match policy {
            SizePolicy::Fail if !exact => {
                return Err(Error::Settings(format!(
                    "the output size {scaled} is no multiple of 128 and size-policy is \"fail\"; \
                     set size-policy=pad for an exact size or size-policy=crop for a smaller one"
                )));
            }
            SizePolicy::Pad | SizePolicy::Fail => (Size::new(up(scaled.width), up(scaled.height)), (0, 0), scaled),
            SizePolicy::Crop => {
                let model = Size::new(down(scaled.width), down(scaled.height));
                if model.width == 0 || model.height == 0 {
                    return Err(Error::Settings(format!(
                        "size-policy=crop leaves nothing of {scaled}; each side needs 128 pixels or more"
                    )));
                }
                let crop = ((scaled.width - model.width) / 2, (scaled.height - model.height) / 2);
                (model, crop, model)
            }
        };
        Ok(Self { input, scaled, crop, model, output })
    }

    /// `round(size * scale)`, halves to even as in the reference, and at least one pixel.
    pub fn scaled_size(input: Size, scale: f64) -> Size {
        let side = |n: usize| ((n as f64 * scale).round_ties_even() as usize).max(1);
        Size::new(side(input.width), side(input.height))
    }
}
