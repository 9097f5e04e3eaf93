// SPDX-License-Identifier: MPL-2.0

//! The size of the output that the user asks for.

use gstflashvsr::upscaler::{Geometry, Size};

/// The most by which the element enlarges.
const LARGEST: f64 = 8.0;

/// A size that is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Asked {
    /// The input's, times this.
    Scale(f64),
    /// The largest in the shape of the input that is no wider and no higher; either may be left open.
    Within {
        /// Pixels.
        width: Option<u32>,
        /// Pixels.
        height: Option<u32>,
    },
}

impl Asked {
    /// The size for an input: of even sides, which encoders of 4:2:0 video need, and not smaller than the input.
    ///
    /// # Errors
    /// In words, if it is not 1 to 8 times as large as the input.
    pub fn of(self, input: Size) -> Result<Size, String> {
        let scale = match self {
            Self::Scale(scale) => scale,
            Self::Within { width, height } => {
                let by = |asked: Option<u32>, side: usize| {
                    asked.map_or(f64::INFINITY, |asked| f64::from(asked) / side as f64)
                };
                by(width, input.width).min(by(height, input.height))
            }
        };
        if !(1.0..=LARGEST).contains(&scale) {
            let limit = |side: usize| format!("{side} to {}", side * LARGEST as usize);
            return Err(format!(
                "the input has {input} pixels, and the output can be 1 to {LARGEST} times as large: --width {}, or --height {}",
                limit(input.width),
                limit(input.height)
            ));
        }
        let exact = Geometry::scaled_size(input, scale);
        let even = |exact: usize, input: usize| if exact & !1 < input { exact.next_multiple_of(2) } else { exact & !1 };
        Ok(Size::new(even(exact.width, input.width), even(exact.height, input.height)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(asked: Asked, width: usize, height: usize) -> Result<(usize, usize), String> {
        asked.of(Size::new(width, height)).map(|size| (size.width, size.height))
    }

    fn within(width: Option<u32>, height: Option<u32>) -> Asked {
        Asked::Within { width, height }
    }

    #[test]
    fn sides_are_even_and_never_smaller_than_the_inputs() {
        assert_eq!(size(Asked::Scale(2.0), 64, 48), Ok((128, 96)));
        assert_eq!(size(Asked::Scale(3.0), 53, 37), Ok((158, 110)));
        assert_eq!(size(Asked::Scale(1.0), 53, 37), Ok((54, 38)));
        assert_eq!(size(Asked::Scale(1.5), 1, 1), Ok((2, 2)));
    }

    #[test]
    fn a_width_or_a_height_keeps_the_shape() {
        assert_eq!(size(within(None, Some(1080)), 640, 360), Ok((1920, 1080)));
        assert_eq!(size(within(Some(1920), None), 640, 360), Ok((1920, 1080)));
        assert_eq!(size(within(None, Some(720)), 720, 576), Ok((900, 720)));
        // Both are a box around it.
        assert_eq!(size(within(Some(1920), Some(1080)), 640, 480), Ok((1440, 1080)));
        assert_eq!(size(within(Some(1280), Some(9999)), 640, 480), Ok((1280, 960)));
    }

    #[test]
    fn what_is_not_one_to_eight_times_as_large_is_refused_with_the_range() {
        for asked in
            [within(None, Some(479)), within(Some(639), None), within(Some(6000), None), within(Some(0), Some(0))]
        {
            let refusal = size(asked, 640, 480).unwrap_err();
            assert!(refusal.contains("640x480") && refusal.contains("--height 480 to 3840"), "{refusal}");
        }
    }
}
