// SPDX-License-Identifier: MPL-2.0

//! Frames as video has them, to packed RGB and back: `kernels/yuv.cu`.

use super::arena::Allocation;
use super::driver::{Address, Args, Driver, Kernel};
use super::frames::Emitted;
use super::{CudaBackend, CudaTensor, index};
use crate::backend::{self, Chroma, Layout, PLANES, Plane, Size};
use crate::error::Result;

const THREADS: u32 = 128;

const fn kernel(name: &'static str) -> Kernel {
    Kernel { file: "yuv", name, threads: THREADS, shared: 0 }
}

const TO_RGB_U8_U8: Kernel = kernel("to_rgb_u8_u8");
const TO_RGB_U8_U16: Kernel = kernel("to_rgb_u8_u16");
const TO_RGB_U16_U16: Kernel = kernel("to_rgb_u16_u16");
/// For samples of 8 and 16 bits.
const FROM_RGB: [Kernel; 2] = [kernel("from_rgb_u8"), kernel("from_rgb_u16")];

/// `Component` of yuv.cu.
#[derive(Clone, Copy, PartialEq, Default)]
#[repr(C)]
struct Component {
    samples: Address,
    pitch: u32,
    step: u32,
}

/// `Chroma` of yuv.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ChromaArgs {
    count: u32,
    halved: u32,
    cosited: u32,
}

/// `Affine` of yuv.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct Affine {
    matrix: [[f32; 3]; 3],
    offset: [f32; 3],
}

impl From<([[f32; 3]; 3], [f32; 3])> for Affine {
    fn from((matrix, offset): ([[f32; 3]; 3], [f32; 3])) -> Self {
        Self { matrix, offset }
    }
}

/// `ToRgbArgs` of yuv.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ToRgbArgs {
    components: [Component; 3],
    rgb: Address,
    affine: Affine,
    across: ChromaArgs,
    down: ChromaArgs,
    width: u32,
    shift: u32,
}

/// `FromRgbArgs` of yuv.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct FromRgbArgs {
    picture: Address,
    fallback: Address,
    non_finite: Address,
    components: [Component; 4],
    affine: Affine,
    across: ChromaArgs,
    down: ChromaArgs,
    height: u32,
    width: u32,
    rows: u32,
    cols: u32,
    shift: u32,
    top: f32,
    half: f32,
    largest: f32,
}

// SAFETY: laid out as the kernels' structs.
unsafe impl Args for ToRgbArgs {}
// SAFETY: as above.
unsafe impl Args for FromRgbArgs {}

fn chroma(axis: Chroma, pixels: usize) -> Result<ChromaArgs> {
    let halved = u32::from(axis != Chroma::Full);
    Ok(ChromaArgs { count: index(axis.samples(pixels))?, halved, cosited: u32::from(axis == Chroma::Cosited) })
}

/// The components of a frame whose planes lie one behind the other.
fn components(layout: &Layout, size: Size, base: Address) -> Result<([Component; 3], Component)> {
    layout.check()?;
    let extents = layout.extents(size);
    let component = |component: backend::Component| -> Result<Component> {
        let before: usize = extents[..component.plane].iter().map(|extent| extent.bytes()).sum();
        Ok(Component {
            samples: base + (before + component.offset * layout.sample_bytes()) as u64,
            pitch: index(extents[component.plane].row / layout.sample_bytes())?,
            step: index(component.step)?,
        })
    };
    let [first, second, third] = layout.components;
    let filler = layout.filler.map(component).transpose()?;
    Ok(([component(first)?, component(second)?, component(third)?], filler.unwrap_or_default()))
}

impl<D: Driver> CudaBackend<D> {
    /// Brings planes to the device and turns them into packed RGB of [`Layout::depth`]. They have been checked.
    pub(super) fn upload_planes(
        &self,
        layout: &Layout,
        planes: &[Plane<'_>; PLANES],
        size: Size,
    ) -> Result<Allocation> {
        let extents = layout.extents(size);
        let uploaded = self.arena.allocate(extents.iter().map(|extent| extent.bytes()).sum())?;
        let mut to = uploaded.address();
        for (plane, extent) in planes.iter().zip(extents).filter(|(_, extent)| extent.rows > 0) {
            self.upload_rows(to, plane.bytes, plane.stride, extent)?;
            to += extent.bytes() as u64;
        }
        let depth = layout.depth();
        let rgb = self.arena.allocate(3 * depth.bytes() * size.width * size.height)?;
        let args = ToRgbArgs {
            components: components(layout, size, uploaded.address())?.0,
            rgb: rgb.address(),
            affine: layout.to_rgb().scaled(1.0, depth.largest()).into(),
            across: chroma(layout.across, size.width)?,
            down: chroma(layout.down, size.height)?,
            width: index(size.width)?,
            shift: layout.shift,
        };
        let kernel = match (layout.sample_bytes(), depth.bytes()) {
            (1, 1) => &TO_RGB_U8_U8,
            (1, _) => &TO_RGB_U8_U16,
            _ => &TO_RGB_U16_U16,
        };
        self.launch_one(kernel, [size.width.div_ceil(THREADS as usize), size.height, 1], &args)?;
        Ok(rgb)
    }

    /// Writes the top left of `picture` as planes, one behind the other; with `fallback`, the top left of that picture where
    /// the flag at the address is set.
    pub(super) fn emit_planes(
        &self,
        layout: &Layout,
        frame: &Emitted,
        picture: &CudaTensor,
        fallback: Option<(&CudaTensor, Address)>,
    ) -> Result<()> {
        let (height, width) = picture.picture_dims()?;
        let ([first, second, third], filler) = components(layout, frame.size, frame.out)?;
        let top = layout.depth().largest();
        let args = FromRgbArgs {
            picture: picture.address(),
            fallback: fallback.map_or(0, |(picture, _)| picture.address()),
            non_finite: fallback.map_or(0, |(_, flag)| flag),
            components: [first, second, third, filler],
            affine: layout.from_rgb().scaled(top, 1.0).into(),
            across: chroma(layout.across, frame.size.width)?,
            down: chroma(layout.down, frame.size.height)?,
            height: index(height)?,
            width: index(width)?,
            rows: index(frame.size.height)?,
            cols: index(frame.size.width)?,
            shift: layout.shift,
            top: top as f32,
            half: frame.half(),
            largest: layout.largest() as f32,
        };
        let blocks = (args.across.count as usize).div_ceil(THREADS as usize);
        self.launch_one(&FROM_RGB[layout.sample_bytes() - 1], [blocks, args.down.count as usize, 1], &args)
    }
}
