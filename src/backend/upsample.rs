// SPDX-License-Identifier: MPL-2.0

//! Nearest x2, growth in time and a 3x3 convolution as four convolutions of 2x2 pixels, one for each phase of the output's
//! pixels. All three are linear and without bias, so that merging them is exact, at the border too: upsampled zeros are zeros.

use candle_core::DType;

use super::HostTensor;
use crate::error::{Error, Result};

/// Phases of the output's pixels, (row, column) in reading order; as many as each has taps.
pub(super) const PHASES: usize = 4;

/// 3x3 kernel rows (or columns) that fall on input row 0 or 1 of a phase.
const SOURCES: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];

/// The weights to be merged.
pub(super) struct Upsample {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Time steps made of one.
    pub times: usize,
    mid: usize,
    /// `[time][mid][input]`.
    grow: Vec<f64>,
    /// `[output][mid][3][3]`.
    weight: Vec<f64>,
}

impl Upsample {
    /// The stage of `grow (g * mid, in, 1, 1)` and `weight (out, mid, 3, 3)`.
    ///
    /// # Errors
    /// [`Error::Compute`] if they do not fit together.
    pub fn new(grow: &HostTensor, weight: &HostTensor) -> Result<Self> {
        let (outputs, mid, rows, cols) = weight.dims4()?;
        let (grown, inputs, ..) = grow.dims4()?;
        let times = grown / mid.max(1);
        if times == 0 || times * mid != grown || (rows, cols) != (3, 3) {
            return Err(Error::Compute(format!(
                "a growth to {grown} channels does not feed a {rows}x{cols} convolution of {mid}"
            )));
        }
        let values = |tensor: &HostTensor| tensor.flatten_all()?.to_dtype(DType::F64)?.to_vec1();
        Ok(Self { inputs, outputs, times, mid, grow: values(grow)?, weight: values(weight)? })
    }

    /// Columns of the merged convolutions, (time, out).
    pub fn columns(&self) -> usize {
        self.times * self.outputs
    }

    /// Writes the weights of one tap (row, column) of one column of a phase, a value per input: merged in f64, rounded once.
    pub fn tap(&self, phase: usize, column: usize, tap: usize, to: &mut [f32]) {
        let Self { inputs, outputs, mid, .. } = *self;
        let (time, output) = (column / outputs, column % outputs);
        let (rows, cols) = (SOURCES[phase / 2][tap / 2], SOURCES[phase % 2][tap % 2]);
        let kernels = self.weight[output * mid * 9..(output + 1) * mid * 9].chunks_exact(9);
        let grow = self.grow[time * mid * inputs..(time + 1) * mid * inputs].chunks_exact(inputs);
        let mut merged = vec![0.0f64; inputs];
        for (kernel, grow) in kernels.zip(grow) {
            // The kernel's taps that meet here.
            let sum: f64 = rows.iter().flat_map(|r| cols.iter().map(move |c| kernel[3 * r + c])).sum();
            merged.iter_mut().zip(grow).for_each(|(merged, grow)| *merged += grow * sum);
        }
        to.iter_mut().zip(merged).for_each(|(to, merged)| *to = merged as f32);
    }
}
