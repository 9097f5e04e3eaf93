// SPDX-License-Identifier: MPL-2.0

//! Rotary position embedding of three axes.

/// Channels of an attention head: 44 for time, 42 for rows, 42 for columns, in neighbouring pairs.
pub const HEAD_DIM: usize = 128;
/// Channel pairs of (time, rows, columns).
const PAIRS: [usize; 3] = [22, 21, 21];
const THETA: f64 = 10_000.0;

/// The tokens of one grid whose queries and keys are to be rotated. Cheap; [`Rope::tables`] computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rope {
    first_frame: u64,
    positions: [usize; 3],
}

impl Rope {
    /// The rotations for latent frames `first_frame..first_frame + frames` and `rows x cols` tokens.
    pub fn new(first_frame: u64, frames: usize, rows: usize, cols: usize) -> Self {
        Self { first_frame, positions: [frames, rows, cols] }
    }

    /// Frames, rows and columns.
    pub fn positions(&self) -> [usize; 3] {
        self.positions
    }

    /// The cosines and sines. Angles are computed in f64 from the absolute position, so a stream may be endless.
    pub fn tables(&self) -> RopeTables {
        let axis = |pairs: usize, first: u64, count: usize| -> Vec<Vec<(f32, f32)>> {
            (0..count as u64)
                .map(|i| {
                    let position = (first + i) as f64;
                    (0..pairs)
                        .map(|j| {
                            let angle = position * THETA.powf(-(j as f64) / pairs as f64);
                            (angle.cos() as f32, angle.sin() as f32)
                        })
                        .collect()
                })
                .collect()
        };
        let [frames, rows, cols] = self.positions;
        RopeTables {
            axes: [axis(PAIRS[0], self.first_frame, frames), axis(PAIRS[1], 0, rows), axis(PAIRS[2], 0, cols)],
        }
    }
}

/// Cosines and sines for the tokens of one grid: for each axis and position, the (cos, sin) of each channel pair.
#[derive(Debug, Clone)]
pub struct RopeTables {
    axes: [Vec<Vec<(f32, f32)>>; 3],
}

impl RopeTables {
    /// The 64 (cos, sin) pairs of the token at (frame, row, column) of the grid, in channel order.
    pub fn pairs(&self, frame: usize, row: usize, col: usize) -> impl Iterator<Item = (f32, f32)> + '_ {
        let [time, rows, cols] = &self.axes;
        time[frame].iter().chain(&rows[row]).chain(&cols[col]).copied()
    }

    /// All (cos, sin) pairs: of each frame 22, then of each row 21, then of each column 21.
    pub fn table(&self) -> impl Iterator<Item = (f32, f32)> + '_ {
        self.axes.iter().flatten().flatten().copied()
    }
}
