// SPDX-License-Identifier: MPL-2.0

//! The token grid and the window order.

use super::picture::{Size, WINDOW_PIXELS};

/// Latent frames of an attention window.
pub const GROUP_FRAMES: usize = 2;
/// Rows and columns of an attention window in tokens.
pub const WINDOW_SIDE: usize = 8;
/// Tokens of an attention window.
pub const WINDOW_TOKENS: usize = GROUP_FRAMES * WINDOW_SIDE * WINDOW_SIDE;

/// The tokens of one temporal window of the network: `frames` latent frames of `rows x cols` tokens of 16x16 pixels.
///
/// *Window order*: attention windows of 2 frames x 8 rows x 8 columns are ordered by (frame pair, window row, window
/// column), the 128 tokens inside by (frame, row, column).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Latent frames, even.
    pub frames: usize,
    /// Token rows, a multiple of 8.
    pub rows: usize,
    /// Token columns, a multiple of 8.
    pub cols: usize,
}

impl Grid {
    /// The grid of `frames` latent frames at a model size of multiples of 128.
    pub fn new(frames: usize, size: Size) -> Self {
        debug_assert!(size.width.is_multiple_of(WINDOW_PIXELS) && size.height.is_multiple_of(WINDOW_PIXELS));
        debug_assert!(frames.is_multiple_of(GROUP_FRAMES));
        Self { frames, rows: size.height / 16, cols: size.width / 16 }
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.frames * self.rows * self.cols
    }

    /// Frame pairs.
    pub fn groups(&self) -> usize {
        self.frames / GROUP_FRAMES
    }

    /// Rows of attention windows of a frame pair.
    pub fn window_rows(&self) -> usize {
        self.rows / WINDOW_SIDE
    }

    /// Columns of attention windows of a frame pair.
    pub fn window_cols(&self) -> usize {
        self.cols / WINDOW_SIDE
    }

    /// Attention windows of a frame pair.
    pub fn windows(&self) -> usize {
        self.window_rows() * self.window_cols()
    }

    /// Frame, row and column of the token at `index` in window order.
    #[inline]
    pub fn position(&self, index: usize) -> (usize, usize, usize) {
        let (window, token) = (index / WINDOW_TOKENS, index % WINDOW_TOKENS);
        let (group, window) = (window / self.windows(), window % self.windows());
        let (wy, wx) = (window / self.window_cols(), window % self.window_cols());
        let area = WINDOW_SIDE * WINDOW_SIDE;
        (
            group * GROUP_FRAMES + token / area,
            wy * WINDOW_SIDE + token % area / WINDOW_SIDE,
            wx * WINDOW_SIDE + token % WINDOW_SIDE,
        )
    }
}
