// SPDX-License-Identifier: MPL-2.0

//! How the pixels of a frame lie in memory and what their samples mean: planar or packed, RGB or YCbCr.

use super::{Depth, Size};
use crate::error::{Error, Result};

/// The most planes that a [`Layout`] has.
pub const PLANES: usize = 3;

/// The most samples of a packed group.
const MAX_STEP: usize = 16;

/// What the samples of a frame are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Format {
    /// Packed RGB, full range.
    Rgb(Depth),
    /// Planes as video has them.
    Video(Layout),
}

impl Default for Format {
    fn default() -> Self {
        Self::Rgb(Depth::default())
    }
}

impl Format {
    /// Bytes of a frame of this size without anything between its rows.
    pub fn bytes(&self, size: Size) -> usize {
        match self {
            Format::Rgb(depth) => 3 * depth.bytes() * size.width * size.height,
            Format::Video(layout) => layout.extents(size).iter().map(|plane| plane.bytes()).sum(),
        }
    }
}

/// Where the samples of one component lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Number of the plane, below [`PLANES`].
    pub plane: usize,
    /// Samples of the plane's rows before the first one.
    pub offset: usize,
    /// Samples from one to the next: 1 in a plane of its own, 2 where Cb and Cr take turns.
    pub step: usize,
}

/// How chroma is sampled along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chroma {
    /// One sample per pixel.
    Full,
    /// One for every two pixels, between them.
    Centred,
    /// One for every two pixels, at the first of them.
    Cosited,
}

impl Chroma {
    /// Samples for `pixels` pixels.
    pub fn samples(self, pixels: usize) -> usize {
        match self {
            Chroma::Full => pixels,
            Chroma::Centred | Chroma::Cosited => pixels.div_ceil(2),
        }
    }
}

/// What the components are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Color {
    /// Red, green and blue, full range.
    Rgb,
    /// Luma, Cb and Cr.
    Ycbcr {
        /// Share of red in luma.
        kr: f64,
        /// Share of blue in luma.
        kb: f64,
        /// Whether every level is used, or luma only 16..=235 and chroma 16..=240 of 8 bits.
        full_range: bool,
    },
}

/// How the pixels of a frame lie in memory, and what their samples mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Layout {
    /// Red, green and blue, or luma, Cb and Cr.
    pub components: [Component; 3],
    /// Samples that stand for nothing that we know (alpha, or the x of RGBx), and are given their largest value.
    pub filler: Option<Component>,
    /// Bits of a sample that count, from 1 to 16.
    pub bits: u32,
    /// Bits below these, which do not.
    pub shift: u32,
    /// The second and third component, across.
    pub across: Chroma,
    /// The second and third component, down.
    pub down: Chroma,
    /// What the components are.
    pub color: Color,
}

/// Size of a plane without what lies between its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// Bytes of a row.
    pub row: usize,
    /// Rows; 0 if there is no such plane.
    pub rows: usize,
}

impl Extent {
    /// Bytes in all.
    pub fn bytes(self) -> usize {
        self.row * self.rows
    }
}

/// `matrix * components + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// A row per result.
    pub matrix: [[f64; 3]; 3],
    /// One per result.
    pub offset: [f64; 3],
}

impl Affine {
    /// The same in f32, with inputs and results in other units: 1 of them is `inputs` and `results` of those.
    pub(super) fn scaled(&self, inputs: f64, results: f64) -> ([[f32; 3]; 3], [f32; 3]) {
        let matrix = self.matrix.map(|row| row.map(|m| (m * results / inputs) as f32));
        (matrix, self.offset.map(|offset| (offset * results) as f32))
    }
}

impl Layout {
    /// Bits of the RGB into which the frame is turned: 16, so that no level is lost, but for RGB of 8 bits.
    pub fn depth(&self) -> Depth {
        if self.color == Color::Rgb && self.bits <= 8 { Depth::Eight } else { Depth::Sixteen }
    }

    /// Bytes of a sample.
    pub fn sample_bytes(&self) -> usize {
        if self.bits + self.shift <= 8 { 1 } else { 2 }
    }

    /// The largest sample.
    pub fn largest(&self) -> u32 {
        (1 << self.bits) - 1
    }

    /// The planes of a frame of this size.
    pub fn extents(&self, size: Size) -> [Extent; PLANES] {
        let mut planes = [Extent::default(); PLANES];
        let [first, second, third] = self.components;
        let luma = std::iter::once(first).chain(self.filler).map(|component| (component, size));
        let chroma = Size::new(self.across.samples(size.width), self.down.samples(size.height));
        for (component, size) in luma.chain([(second, chroma), (third, chroma)]) {
            if let Some(plane) = planes.get_mut(component.plane) {
                let samples = component.offset + component.step * size.width.saturating_sub(1) + 1;
                plane.row = plane.row.max(samples * self.sample_bytes());
                plane.rows = plane.rows.max(size.height);
            }
        }
        planes
    }

    /// Refuses what no kernel could read.
    pub(super) fn check(&self) -> Result<()> {
        let mut places = self.components.iter().chain(&self.filler);
        let placed = places.all(|c| c.plane < PLANES && (1..=MAX_STEP).contains(&c.step) && c.offset < MAX_STEP);
        if placed && (1..=16).contains(&self.bits) && self.shift <= 16 - self.bits {
            Ok(())
        } else {
            Err(Error::Settings(format!("no frame has its pixels as in {self:?}")))
        }
    }

    /// RGB in 0..=1 out of samples.
    pub fn to_rgb(&self) -> Affine {
        let (zero, span) = self.levels();
        let colors = match self.color {
            Color::Rgb => IDENTITY,
            Color::Ycbcr { kr, kb, .. } => {
                let (red, blue, kg) = (2.0 * (1.0 - kr), 2.0 * (1.0 - kb), 1.0 - kr - kb);
                [[1.0, 0.0, red], [1.0, -blue * kb / kg, -red * kr / kg], [1.0, blue, 0.0]]
            }
        };
        let matrix: [[f64; 3]; 3] = colors.map(|row| std::array::from_fn(|i| row[i] / span[i]));
        Affine { matrix, offset: matrix.map(|row| -row.iter().zip(zero).map(|(m, zero)| m * zero).sum::<f64>()) }
    }

    /// Samples out of RGB in 0..=1: the inverse of [`Layout::to_rgb`].
    pub fn from_rgb(&self) -> Affine {
        let (zero, span) = self.levels();
        let colors = match self.color {
            Color::Rgb => IDENTITY,
            // E'Y, E'PB and E'PR of ITU-R BT.709, part 3.
            Color::Ycbcr { kr, kb, .. } => {
                let (red, blue, kg) = (2.0 * (1.0 - kr), 2.0 * (1.0 - kb), 1.0 - kr - kb);
                [[kr, kg, kb], [-kr / blue, -kg / blue, 0.5], [0.5, -kg / red, -kb / red]]
            }
        };
        Affine { matrix: std::array::from_fn(|i| colors[i].map(|m| m * span[i])), offset: zero }
    }

    /// Of each component the sample that stands for 0, and the samples from there to 1.
    fn levels(&self) -> ([f64; 3], [f64; 3]) {
        let (unit, largest) = (2.0f64.powi(self.bits as i32 - 8), f64::from(self.largest()));
        match self.color {
            Color::Rgb => ([0.0; 3], [largest; 3]),
            // As in ITU-R BT.2100: the levels of 8 bits, times a power of 2.
            Color::Ycbcr { full_range: true, .. } => ([0.0, 128.0 * unit, 128.0 * unit], [largest; 3]),
            Color::Ycbcr { full_range: false, .. } => {
                ([16.0 * unit, 128.0 * unit, 128.0 * unit], [219.0 * unit, 224.0 * unit, 224.0 * unit])
            }
        }
    }
}

/// RGB as it is.
const IDENTITY: [[f64; 3]; 3] = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(bits: u32, color: Color) -> Layout {
        let plane = |plane| Component { plane, offset: 0, step: 1 };
        let (across, down) = (Chroma::Centred, Chroma::Centred);
        Layout { components: [plane(0), plane(1), plane(2)], filler: None, bits, shift: 0, across, down, color }
    }

    fn apply(affine: &Affine, values: [f64; 3]) -> [f64; 3] {
        std::array::from_fn(|i| affine.offset[i] + (0..3).map(|j| affine.matrix[i][j] * values[j]).sum::<f64>())
    }

    fn near(got: [f64; 3], expected: [f64; 3]) -> bool {
        got.iter().zip(expected).all(|(got, expected)| (got - expected).abs() < 1e-9)
    }

    #[test]
    fn primaries_have_the_published_levels() {
        // Studio RGB bars at 100 % in ITU-R BT.601 and BT.709, 8 bits; halves are where the standards' tables round.
        let bt601 = layout(8, Color::Ycbcr { kr: 0.299, kb: 0.114, full_range: false });
        let bt709 = layout(10, Color::Ycbcr { kr: 0.2126, kb: 0.0722, full_range: false });
        let rounded = |layout: &Layout, rgb| apply(&layout.from_rgb(), rgb).map(f64::round);
        assert_eq!(rounded(&bt601, [1.0, 1.0, 1.0]), [235.0, 128.0, 128.0]);
        assert_eq!(rounded(&bt601, [1.0, 0.0, 0.0]), [81.0, 90.0, 240.0]);
        assert_eq!(rounded(&bt601, [0.0, 0.0, 1.0]), [41.0, 240.0, 110.0]);
        assert_eq!(rounded(&bt709, [1.0, 1.0, 1.0]), [940.0, 512.0, 512.0]);
        assert_eq!(rounded(&bt709, [0.0, 0.0, 0.0]), [64.0, 512.0, 512.0]);
        assert_eq!(rounded(&bt709, [1.0, 1.0, 0.0])[1], 64.0);
    }

    #[test]
    fn there_and_back_is_the_same_colour() {
        for bits in [8, 10, 12, 16] {
            for full_range in [false, true] {
                for (kr, kb) in [(0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)] {
                    let layout = layout(bits, Color::Ycbcr { kr, kb, full_range });
                    let rgb = [0.7, 0.2, 0.4];
                    assert!(near(apply(&layout.to_rgb(), apply(&layout.from_rgb(), rgb)), rgb), "{layout:?}");
                }
            }
        }
        assert!(near(apply(&layout(10, Color::Rgb).from_rgb(), [0.0, 0.5, 1.0]), [0.0, 511.5, 1023.0]));
    }

    #[test]
    fn odd_sizes_have_a_last_chroma_sample() {
        let ycbcr = Color::Ycbcr { kr: 0.299, kb: 0.114, full_range: false };
        let i420 = layout(8, ycbcr);
        let extent = |row, rows| Extent { row, rows };
        assert_eq!(i420.extents(Size::new(5, 3)), [extent(5, 3), extent(3, 2), extent(3, 2)]);
        assert_eq!(Format::Video(i420).bytes(Size::new(5, 3)), 15 + 12);
        let shared = |offset| Component { plane: 1, offset, step: 2 };
        let p010 = Layout { components: [i420.components[0], shared(0), shared(1)], bits: 10, shift: 6, ..i420 };
        assert_eq!(p010.extents(Size::new(5, 3)), [extent(10, 3), extent(12, 2), extent(0, 0)]);
        let packed = |offset| Component { plane: 0, offset, step: 4 };
        let xrgb = Layout { components: [packed(1), packed(2), packed(3)], filler: Some(packed(0)), ..i420 };
        let xrgb = Layout { across: Chroma::Full, down: Chroma::Full, color: Color::Rgb, ..xrgb };
        assert_eq!(xrgb.extents(Size::new(5, 3)), [extent(20, 3), extent(0, 0), extent(0, 0)]);
        assert_eq!((xrgb.depth(), i420.depth()), (Depth::Eight, Depth::Sixteen));
    }
}
