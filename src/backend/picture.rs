// SPDX-License-Identifier: MPL-2.0

//! Pictures at the edge of the network: RGB frames in host memory, and how a frame of one size becomes a frame of another.

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
}

/// Samples of a packed RGB picture, three per pixel.
#[derive(Debug, Clone, Copy)]
pub enum Samples<'a> {
    /// 8 bits per sample, 0..=255.
    U8(&'a [u8]),
    /// 16 bits per sample, 0..=65535, for sources of more than 8 bits.
    U16(&'a [u16]),
}

/// A borrowed packed RGB picture, full range.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Samples from the start of one row to the start of the next; at least `3 * width`.
    pub stride: usize,
    /// The samples; the last row may end after `3 * width` of them.
    pub samples: Samples<'a>,
}

/// Samples of a packed RGB picture to be written.
#[derive(Debug)]
pub enum SamplesMut<'a> {
    /// 8 bits per sample.
    U8(&'a mut [u8]),
    /// 16 bits per sample.
    U16(&'a mut [u16]),
}

/// A packed RGB picture to be written, full range.
#[derive(Debug)]
pub struct FrameMut<'a> {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Samples from the start of one row to the start of the next; at least `3 * width`.
    pub stride: usize,
    /// The samples; the last row may end after `3 * width` of them.
    pub samples: SamplesMut<'a>,
}

impl SamplesMut<'_> {
    /// Bits of each.
    pub fn depth(&self) -> Depth {
        match self {
            SamplesMut::U8(_) => Depth::Eight,
            SamplesMut::U16(_) => Depth::Sixteen,
        }
    }
}

impl Frame<'_> {
    /// Checks that every row lies within the samples.
    pub fn check(&self) -> Result<()> {
        let len = match self.samples {
            Samples::U8(s) => s.len(),
            Samples::U16(s) => s.len(),
        };
        check_rows("input", self.width, self.height, self.stride, len)
    }
}

impl FrameMut<'_> {
    /// Checks that every row lies within the samples.
    pub fn check(&self) -> Result<()> {
        let len = match &self.samples {
            SamplesMut::U8(s) => s.len(),
            SamplesMut::U16(s) => s.len(),
        };
        check_rows("output", self.width, self.height, self.stride, len)
    }
}

fn check_rows(what: &str, width: usize, height: usize, stride: usize, len: usize) -> Result<()> {
    let fits = width > 0
        && height > 0
        && stride >= 3 * width
        && stride.checked_mul(height - 1).and_then(|n| n.checked_add(3 * width)).is_some_and(|n| n <= len);
    if fits {
        Ok(())
    } else {
        Err(Error::Settings(format!(
            "{what} frame of {width}x{height}, stride {stride}, does not fit its {len} samples"
        )))
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
