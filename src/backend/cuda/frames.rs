// SPDX-License-Identifier: MPL-2.0

//! Frames in and out: `kernels/resize.cu`, and the end of `kernels/picture.cu`.

use super::arena::Allocation;
use super::driver::{Address, Args, Driver, Kernel, Queue};
use super::dry_run::QueueOrDryRun;
use super::{CudaBackend, CudaTensor, Weight, index};
use crate::backend::resize::Axis;
use crate::backend::{
    Extent, Format, Frame, FrameMut, Geometry, OutputSpec, PLANES, PlaneMut, Resizer, Rounding, Samples, SamplesMut,
    Size,
};
use crate::error::{Error, Result};

const RESIZE_THREADS: u32 = 128;
/// Pixels that a thread of the second pass makes.
const PIXELS: usize = 4;
const EMIT_THREADS: u32 = 256;

/// One of the kernels for 8 and 16 bits.
const fn sample_kernel(file: &'static str, name: &'static str, threads: u32) -> Kernel {
    Kernel { file, name, threads, shared: 0 }
}

const ACROSS: [Kernel; 2] = [
    sample_kernel("resize", "resize_across_u8", RESIZE_THREADS),
    sample_kernel("resize", "resize_across_u16", RESIZE_THREADS),
];
const DOWN: [Kernel; 2] = [
    sample_kernel("resize", "resize_down_u8", RESIZE_THREADS),
    sample_kernel("resize", "resize_down_u16", RESIZE_THREADS),
];
const EMIT: [Kernel; 2] =
    [sample_kernel("picture", "emit_u8", EMIT_THREADS), sample_kernel("picture", "emit_u16", EMIT_THREADS)];

/// An [`Axis`] on the device.
struct CudaAxis {
    first: Weight,
    weights: Weight,
    taps: u32,
    count: u32,
}

/// `Axis` of resize.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct AxisArgs {
    first: Address,
    weights: Address,
    taps: u32,
    count: u32,
}

/// `AcrossArgs` of resize.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct AcrossArgs {
    frame: Address,
    lines: Address,
    columns: AxisArgs,
    width: u32,
}

/// `DownArgs` of resize.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct DownArgs {
    lines: Address,
    picture: Address,
    rows: AxisArgs,
    cols: u32,
    height: u32,
    width: u32,
}

/// `EmitArgs` of picture.cu.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct EmitArgs {
    picture: Address,
    fallback: Address,
    non_finite: Address,
    out: Address,
    height: u32,
    width: u32,
    rows: u32,
    cols: u32,
    half: f32,
}

// SAFETY: laid out as the kernels' structs.
unsafe impl Args for AcrossArgs {}
// SAFETY: as above.
unsafe impl Args for DownArgs {}
// SAFETY: as above.
unsafe impl Args for EmitArgs {}

/// Bytes of the flag that tells of values that are not finite.
const FLAG_BYTES: usize = 4;

/// A frame on its way to the host.
pub struct CudaPendingFrame<D: Driver> {
    download: <QueueOrDryRun<D::Queue> as Queue>::Download,
    /// Where it is copied from.
    _memory: Allocation,
    size: Size,
    format: Format,
}

/// Where a frame goes, and how.
pub(super) struct Emitted {
    pub(super) out: Address,
    pub(super) size: Size,
    pub(super) format: Format,
    pub(super) rounding: Rounding,
}

impl Emitted {
    /// What is added to a sample before it is truncated.
    pub(super) fn half(&self) -> f32 {
        match self.rounding {
            Rounding::Nearest => 0.5,
            Rounding::Truncate => 0.0,
        }
    }
}

/// What is needed to resize frames under one geometry.
pub struct CudaIngest {
    geometry: Geometry,
    columns: CudaAxis,
    rows: CudaAxis,
}

impl CudaAxis {
    fn args(&self) -> AxisArgs {
        AxisArgs { first: self.first.address(), weights: self.weights.address(), taps: self.taps, count: self.count }
    }
}

/// The bytes of samples.
fn bytes_of(samples: &[u16]) -> &[u8] {
    // SAFETY: the same memory, every byte of which is initialised.
    unsafe { std::slice::from_raw_parts(samples.as_ptr().cast(), size_of_val(samples)) }
}

/// The bytes of samples to be written.
fn bytes_of_mut(samples: &mut [u16]) -> &mut [u8] {
    // SAFETY: the same memory, borrowed for as long; any bytes are samples.
    unsafe { std::slice::from_raw_parts_mut(samples.as_mut_ptr().cast(), size_of_val(samples)) }
}

/// The planes of a frame to be written, with the size of each; packed RGB is one.
fn planes_mut<'a>(out: &'a mut FrameMut<'_>) -> [(PlaneMut<'a>, Extent); PLANES] {
    let (size, stride) = (out.size(), out.stride);
    let rgb = |bytes, depth| {
        let plane = PlaneMut { bytes, stride: depth * stride };
        [(plane, Extent { row: 3 * depth * size.width, rows: size.height }), Default::default(), Default::default()]
    };
    match &mut out.samples {
        SamplesMut::U8(samples) => rgb(samples, 1),
        SamplesMut::U16(samples) => rgb(bytes_of_mut(samples), 2),
        SamplesMut::Planes(layout, planes) => {
            let mut extents = layout.extents(size).into_iter();
            planes.each_mut().map(|plane| {
                let PlaneMut { bytes, stride } = plane;
                (PlaneMut { bytes, stride: *stride }, extents.next().unwrap_or_default())
            })
        }
    }
}

/// Copies planes that lie one behind the other to where they belong.
fn scatter(mut from: &[u8], out: &mut FrameMut<'_>) {
    for (plane, extent) in planes_mut(out).into_iter().filter(|(_, extent)| extent.rows > 0) {
        let (packed, rest) = from.split_at(extent.bytes());
        for (to, from) in plane.bytes.chunks_mut(plane.stride).zip(packed.chunks_exact(extent.row)) {
            to[..extent.row].copy_from_slice(from);
        }
        from = rest;
    }
}

/// The first `len` bytes of a buffer that grows when it must.
fn first_bytes(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

impl<D: Driver> CudaBackend<D> {
    fn axis(&self, axis: &Axis) -> Result<CudaAxis> {
        let first = axis.first.iter().map(|&first| index(first)).collect::<Result<Vec<_>>>()?;
        let first: Vec<u8> = first.iter().flat_map(|v| v.to_le_bytes()).collect();
        let weights: Vec<u8> = axis.weights.iter().flat_map(|v| v.to_le_bytes()).collect();
        Ok(CudaAxis {
            first: self.constant(&first)?,
            weights: self.constant(&weights)?,
            taps: index(axis.taps)?,
            count: index(axis.first.len())?,
        })
    }

    pub(super) fn ingest_tables(&self, geometry: Geometry) -> Result<CudaIngest> {
        let tables = Resizer::new(geometry);
        Ok(CudaIngest { geometry, columns: self.axis(&tables.columns)?, rows: self.axis(&tables.rows)? })
    }

    /// Copies rows, `stride` bytes apart, to device memory without what lies between them.
    pub(super) fn upload_rows(&self, to: Address, from: &[u8], stride: usize, extent: Extent) -> Result<()> {
        if stride == extent.row {
            return self.queue.upload(to, &from[..extent.bytes()]);
        }
        let mut staging = self.staging.lock();
        let packed = first_bytes(&mut staging, extent.bytes());
        for (to, from) in packed.chunks_exact_mut(extent.row).zip(from.chunks(stride)) {
            to.copy_from_slice(&from[..extent.row]);
        }
        self.queue.upload(to, packed)
    }

    /// Packed RGB on the device, and the bytes of its samples.
    fn upload_frame(&self, frame: &Frame<'_>) -> Result<(Allocation, usize)> {
        let (samples, depth) = match &frame.samples {
            Samples::U8(samples) => (*samples, 1),
            Samples::U16(samples) => (bytes_of(samples), 2),
            Samples::Planes(layout, planes) => {
                return Ok((self.upload_planes(layout, planes, frame.size())?, layout.depth().bytes()));
            }
        };
        let extent = Extent { row: 3 * depth * frame.width, rows: frame.height };
        let uploaded = self.arena.allocate(extent.bytes())?;
        self.upload_rows(uploaded.address(), samples, frame.stride * depth, extent)?;
        Ok((uploaded, depth))
    }

    pub(super) fn run_ingest(&self, frame: &Frame<'_>, ingest: &CudaIngest) -> Result<CudaTensor> {
        frame.check()?;
        let Geometry { input, model, .. } = ingest.geometry;
        if frame.size() != input {
            return Err(Error::Settings(format!("frame of {}, expected {input}", frame.size())));
        }
        let (rgb, depth) = self.upload_frame(frame)?;
        let cols = ingest.columns.count as usize;
        let lines = self.arena.allocate(3 * depth * cols * frame.height)?;
        let args = AcrossArgs {
            frame: rgb.address(),
            lines: lines.address(),
            columns: ingest.columns.args(),
            width: index(frame.width)?,
        };
        let blocks = cols.div_ceil(RESIZE_THREADS as usize);
        self.launch_one(&ACROSS[depth - 1], [blocks, frame.height, 1], &args)?;

        let picture = self.empty_picture(model.height, model.width)?;
        let args = DownArgs {
            lines: lines.address(),
            picture: picture.address(),
            rows: ingest.rows.args(),
            cols: ingest.columns.count,
            height: index(model.height)?,
            width: index(model.width)?,
        };
        let blocks = model.width.div_ceil(RESIZE_THREADS as usize * PIXELS);
        self.launch_one(&DOWN[depth - 1], [blocks, model.height, 1], &args)?;
        Ok(picture)
    }

    pub(super) fn run_emit(&self, picture: &CudaTensor, rounding: Rounding, out: &mut FrameMut<'_>) -> Result<()> {
        out.check()?;
        let (height, width) = picture.picture_dims()?;
        let (size, format) = (out.size(), out.samples.format());
        if size.width > width || size.height > height {
            return Err(Error::Settings(format!("frame of {size} out of {width}x{height}")));
        }
        let bytes = format.bytes(size);
        let memory = self.arena.allocate(bytes)?;
        self.emit_into(&Emitted { out: memory.address(), size, format, rounding }, picture, None)?;
        let mut staging = self.staging.lock();
        let packed = first_bytes(&mut staging, bytes);
        self.queue.download(packed, memory.address())?;
        scatter(packed, out);
        Ok(())
    }

    /// Writes the top left of `picture`, without anything between its rows and planes; with `fallback`, the top left of that
    /// picture where the flag at the address is set.
    fn emit_into(&self, frame: &Emitted, picture: &CudaTensor, fallback: Option<(&CudaTensor, Address)>) -> Result<()> {
        let depth = match &frame.format {
            Format::Rgb(depth) => depth.bytes(),
            Format::Video(layout) => return self.emit_planes(layout, frame, picture, fallback),
        };
        let (height, width) = picture.picture_dims()?;
        let Size { width: cols, height: rows } = frame.size;
        let args = EmitArgs {
            picture: picture.address(),
            fallback: fallback.map_or(0, |(picture, _)| picture.address()),
            non_finite: fallback.map_or(0, |(_, flag)| flag),
            out: frame.out,
            height: index(height)?,
            width: index(width)?,
            rows: index(rows)?,
            cols: index(cols)?,
            half: frame.half(),
        };
        let blocks = cols.div_ceil(EMIT_THREADS as usize * PIXELS);
        self.launch_one(&EMIT[depth - 1], [blocks, rows, 1], &args)
    }

    pub(super) fn begin_frame(
        &self,
        hq: &CudaTensor,
        lq: &CudaTensor,
        output: &OutputSpec,
    ) -> Result<CudaPendingFrame<D>> {
        let (height, width) = hq.picture_dims()?;
        let &OutputSpec { color_fix, rounding, size, format } = output;
        if size.width > width || size.height > height || lq.picture_dims()? != (height, width) {
            return Err(Error::Settings(format!("frame of {size} out of {width}x{height}")));
        }
        // The frame, and behind it whether it is the input's: one copy brings both.
        let flag = format.bytes(size).next_multiple_of(FLAG_BYTES);
        let memory = self.arena.allocate(flag + FLAG_BYTES)?;
        let non_finite = memory.address() + flag as u64;
        self.flag_unless_finite(hq, non_finite)?;
        let picture = self.run_color_fix(hq, lq, color_fix)?;
        let frame = Emitted { out: memory.address(), size, format, rounding };
        self.emit_into(&frame, &picture, Some((lq, non_finite)))?;
        let download = self.queue.start_download(memory.address(), flag + FLAG_BYTES)?;
        Ok(CudaPendingFrame { download, _memory: memory, size, format })
    }

    pub(super) fn end_frame(&self, pending: CudaPendingFrame<D>, out: &mut FrameMut<'_>) -> Result<bool> {
        out.check()?;
        let CudaPendingFrame { download, size, format, .. } = pending;
        if out.size() != size || out.samples.format() != format {
            return Err(Error::Settings(format!(
                "output frame of {} in {:?}, expected {size} in {format:?}",
                out.size(),
                out.samples.format()
            )));
        }
        let mut replaced = false;
        self.queue.finish_download(download, &mut |brought| {
            scatter(brought, out);
            replaced = brought[brought.len() - FLAG_BYTES..].iter().any(|byte| *byte != 0);
        })?;
        Ok(replaced)
    }
}
