// SPDX-License-Identifier: MPL-2.0

//! Pictures and their views for the network: `kernels/picture.cu`.

use super::driver::{Address, Args, Driver, Kernel, Queue, kernels};
use super::{CudaBackend, CudaTensor, Kernels, Precision, index};
use crate::error::{Error, Result};

const THREADS: u32 = 256;
/// Values that a thread takes in kernels of f32 alone.
const FLOATS: usize = 4;
/// 16-byte vectors that a thread of `is_finite` reads.
const RUNS: usize = 4;
/// Channels of the decoder's input that come from pictures.
const CONDITION_CHANNELS: usize = 768;
/// Channels of a latent.
const LATENT_CHANNELS: usize = 16;

const ADD: Kernel = Kernel { file: "picture", name: "add_pictures", threads: THREADS, shared: 0 };
const IS_FINITE: Kernels = kernels!("picture", "is_finite", THREADS, [0; 3]);
const PIXEL_UNSHUFFLE: Kernels = kernels!("picture", "pixel_unshuffle", THREADS, [0; 3]);
const DECODER_INPUT: Kernels = kernels!("picture", "decoder_input", THREADS, [0; 3]);
const TO_PICTURE: Kernels = kernels!("picture", "to_picture", THREADS, [0; 3]);

/// `AddArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct AddArgs {
    a: Address,
    b: Address,
    out: Address,
    count: u64,
}

/// `FiniteArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct FiniteArgs {
    values: Address,
    found: Address,
    count: u64,
}

/// `UnshuffleArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct UnshuffleArgs {
    picture: Address,
    map: Address,
    height: u32,
    width: u32,
}

/// `DecoderInputArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct DecoderInputArgs {
    pictures: [Address; 4],
    latent: Address,
    map: Address,
    height: u32,
    width: u32,
}

/// `ToPictureArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ToPictureArgs {
    map: Address,
    picture: Address,
    area: u64,
}

// SAFETY: laid out as the kernels' structs.
unsafe impl Args for AddArgs {}
// SAFETY: as above.
unsafe impl Args for FiniteArgs {}
// SAFETY: as above.
unsafe impl Args for UnshuffleArgs {}
// SAFETY: as above.
unsafe impl Args for DecoderInputArgs {}
// SAFETY: as above.
unsafe impl Args for ToPictureArgs {}

/// Values that 16 bytes hold.
pub(super) fn per_16_bytes(precision: Precision) -> usize {
    16 / precision.bytes()
}

/// Blocks of threads that take `each` of `count` values.
fn blocks(count: usize, each: usize) -> usize {
    count.div_ceil(THREADS as usize * each)
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn run_add(&self, a: &CudaTensor, b: &CudaTensor) -> Result<CudaTensor> {
        let (height, width) = a.picture_dims()?;
        if b.picture_dims()? != (height, width) {
            return Err(Error::Compute(format!(
                "sum of pictures of {:?} and {:?}",
                (height, width),
                b.picture_dims()?
            )));
        }
        let out = self.empty_picture(height, width)?;
        let count = out.shape.len();
        let args = AddArgs { a: a.address(), b: b.address(), out: out.address(), count: count as u64 };
        self.launch_one(&ADD, [blocks(count, FLOATS), 1, 1], &args)?;
        Ok(out)
    }

    pub(super) fn run_is_finite(&self, x: &CudaTensor) -> Result<bool> {
        let mut found = [0; size_of::<u32>()];
        let flag = self.arena.allocate(found.len())?;
        self.flag_unless_finite(x, flag.address())?;
        self.queue.download(&mut found, flag.address())?;
        Ok(u32::from_ne_bytes(found) == 0)
    }

    /// Sets the four bytes at `flag` to 0 if all values are finite, to something else if not.
    pub(super) fn flag_unless_finite(&self, x: &CudaTensor, flag: Address) -> Result<()> {
        self.queue.fill(flag, 0, size_of::<u32>())?;
        let count = x.shape.len();
        let args = FiniteArgs { values: x.address(), found: flag, count: count as u64 };
        let grid = [blocks(count, RUNS * per_16_bytes(x.precision)), 1, 1];
        self.launch_one(&IS_FINITE[x.precision as usize], grid, &args)
    }

    pub(super) fn run_pixel_unshuffle(&self, picture: &CudaTensor) -> Result<CudaTensor> {
        const SIDE: usize = 16;
        const CHANNELS: usize = 3 * SIDE * SIDE;
        let (height, width) = picture.picture_dims()?;
        if height % SIDE != 0 || width % SIDE != 0 {
            return Err(Error::Compute(format!("a picture of {width}x{height} in blocks of {SIDE}x{SIDE}")));
        }
        let (height, width) = (height / SIDE, width / SIDE);
        let map = self.empty_map(height, width, CHANNELS)?;
        let args = UnshuffleArgs {
            picture: picture.address(),
            map: map.address(),
            height: index(height)?,
            width: index(width)?,
        };
        let blocks = blocks(width * CHANNELS, per_16_bytes(self.precision));
        self.launch(&PIXEL_UNSHUFFLE, [blocks, height, 1], &args)?;
        Ok(map)
    }

    pub(super) fn run_decoder_input(&self, cond: [&CudaTensor; 4], latent: &CudaTensor) -> Result<CudaTensor> {
        const SIDE: usize = 8;
        const CHANNELS: usize = CONDITION_CHANNELS + LATENT_CHANNELS;
        let (height, width, channels) = latent.map_dims()?;
        if channels != LATENT_CHANNELS {
            return Err(Error::Compute(format!("a latent of {channels} channels, expected {LATENT_CHANNELS}")));
        }
        for picture in cond {
            let size = picture.picture_dims()?;
            if size != (height * SIDE, width * SIDE) {
                return Err(Error::Compute(format!("condition of {size:?} for a latent of {:?}", latent.shape)));
            }
        }
        let map = self.empty_map(height, width, CHANNELS)?;
        let args = DecoderInputArgs {
            pictures: cond.map(CudaTensor::address),
            latent: latent.address(),
            map: map.address(),
            height: index(height)?,
            width: index(width)?,
        };
        let blocks = blocks(width * CHANNELS, per_16_bytes(self.precision));
        self.launch(&DECODER_INPUT, [blocks, height, 1], &args)?;
        Ok(map)
    }

    pub(super) fn run_to_picture(&self, map: &CudaTensor) -> Result<CudaTensor> {
        let (height, width, channels) = map.map_dims()?;
        if channels != 3 {
            return Err(Error::Compute(format!("a picture of {channels} channels")));
        }
        let picture = self.empty_picture(height, width)?;
        let area = height * width;
        let args = ToPictureArgs { map: map.address(), picture: picture.address(), area: area as u64 };
        self.launch(&TO_PICTURE, [blocks(area, per_16_bytes(self.precision)), 1, 1], &args)?;
        Ok(picture)
    }
}
