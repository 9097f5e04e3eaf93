// SPDX-License-Identifier: MPL-2.0

//! Colour correction: `kernels/color.cu`.

use super::driver::{Address, Args, Driver, Kernel};
use super::{CudaBackend, CudaTensor, index};
use crate::backend::ColorFix;
use crate::error::{Error, Result};

const THREADS: u32 = 256;
/// Values that a thread takes at once.
const FLOATS: usize = 4;
/// Bytes of `Moments` of color.cu: two f64.
const MOMENTS_BYTES: usize = 16;
/// Bytes of `Change` of color.cu: three f32.
const CHANGE_BYTES: usize = 12;
/// Most parts of a plane whose moments are taken apart; enough to fill a GPU.
const MAX_PARTS: usize = 128;
/// Values of a part of a smaller plane.
const PART_VALUES: usize = 1 << 14;
/// Dilations of the wavelet decomposition's five levels.
const DILATIONS: [u32; 5] = [1, 2, 4, 8, 16];

const fn kernel(name: &'static str, shared: u32) -> Kernel {
    Kernel { file: "color", name, threads: THREADS, shared }
}

const PLANE_MOMENTS: Kernel = kernel("plane_moments", THREADS * MOMENTS_BYTES as u32);
const PLANE_CHANGE: Kernel = kernel("plane_change", THREADS * MOMENTS_BYTES as u32);
const APPLY_CHANGE: Kernel = kernel("apply_change", 0);
const BLUR: Kernel = kernel("blur", 0);

/// `MomentsArgs` of color.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct MomentsArgs {
    pictures: [Address; 2],
    partial: Address,
    area: u64,
    parts: u32,
}

/// `ChangeArgs` of color.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ChangeArgs {
    partial: Address,
    change: Address,
    area: u64,
    parts: u32,
}

/// `ApplyArgs` of color.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ApplyArgs {
    hq: Address,
    change: Address,
    out: Address,
    area: u64,
}

/// `BlurArgs` of color.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct BlurArgs {
    low: Address,
    minus: Address,
    plus: Address,
    out: Address,
    height: u32,
    width: u32,
    dilation: u32,
}

// SAFETY: laid out as the kernels' structs.
unsafe impl Args for MomentsArgs {}
// SAFETY: as above.
unsafe impl Args for ChangeArgs {}
// SAFETY: as above.
unsafe impl Args for ApplyArgs {}
// SAFETY: as above.
unsafe impl Args for BlurArgs {}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_color_fix(&self, hq: &CudaTensor, lq: &CudaTensor, fix: ColorFix) -> Result<CudaTensor> {
        let (height, width) = hq.picture_dims()?;
        if lq.picture_dims()? != (height, width) {
            return Err(Error::Compute(format!("colours of {:?} for {:?}", lq.picture_dims()?, (height, width))));
        }
        match fix {
            ColorFix::Adain => self.adain(hq, lq, height, width),
            ColorFix::Wavelet => self.wavelet(hq, lq, height, width),
            ColorFix::None => Ok(hq.clone()),
        }
    }

    fn adain(&self, hq: &CudaTensor, lq: &CudaTensor, height: usize, width: usize) -> Result<CudaTensor> {
        let area = height * width;
        let parts = area.div_ceil(PART_VALUES).min(MAX_PARTS);
        let partial = self.arena.allocate(2 * 3 * parts * MOMENTS_BYTES)?;
        let args = MomentsArgs {
            pictures: [hq.address(), lq.address()],
            partial: partial.address(),
            area: area as u64,
            parts: index(parts)?,
        };
        self.launch_one(&PLANE_MOMENTS, [parts, 3, 2], &args)?;

        let change = self.arena.allocate(3 * CHANGE_BYTES)?;
        let args = ChangeArgs {
            partial: partial.address(),
            change: change.address(),
            area: area as u64,
            parts: index(parts)?,
        };
        self.launch_one(&PLANE_CHANGE, [3, 1, 1], &args)?;

        let out = self.empty_picture(height, width)?;
        let args = ApplyArgs { hq: hq.address(), change: change.address(), out: out.address(), area: area as u64 };
        self.launch_one(&APPLY_CHANGE, [area.div_ceil(THREADS as usize * FLOATS), 3, 1], &args)?;
        Ok(out)
    }

    /// High frequencies of `hq` and low ones of `lq`. The blur is linear, so `high(hq) + low(lq) = hq + low(lq - hq)`.
    fn wavelet(&self, hq: &CudaTensor, lq: &CudaTensor, height: usize, width: usize) -> Result<CudaTensor> {
        let mut low = lq.clone();
        for (level, dilation) in DILATIONS.into_iter().enumerate() {
            let out = self.empty_picture(height, width)?;
            let hq_if = |wanted: bool| if wanted { hq.address() } else { 0 };
            let args = BlurArgs {
                low: low.address(),
                minus: hq_if(level == 0),
                plus: hq_if(level + 1 == DILATIONS.len()),
                out: out.address(),
                height: index(height)?,
                width: index(width)?,
                dilation,
            };
            self.launch_one(&BLUR, [width.div_ceil(THREADS as usize), height, 3], &args)?;
            low = out;
        }
        Ok(low)
    }
}
