// SPDX-License-Identifier: MPL-2.0

//! Frames in and out: `kernels/resize.cu`, and the end of `kernels/picture.cu`.

use super::arena::Place;
use super::driver::{Address, Args, Driver, Kernel, Queue};
use super::work::Work;
use super::{CudaBackend, CudaTensor, Weight, index};
use crate::backend::resize::Axis;
use crate::backend::{Depth, Finish, Frame, FrameMut, Geometry, Resizer, Rounding, Samples, SamplesMut, Size};
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
#[derive(Clone, Copy)]
#[repr(C)]
struct AxisArgs {
    first: Address,
    weights: Address,
    taps: u32,
    count: u32,
}

/// `AcrossArgs` of resize.cu.
#[derive(Clone, Copy)]
#[repr(C)]
struct AcrossArgs {
    frame: Address,
    lines: Address,
    columns: AxisArgs,
    width: u32,
}

/// `DownArgs` of resize.cu.
#[derive(Clone, Copy)]
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
#[derive(Clone, Copy)]
#[repr(C)]
struct EmitArgs {
    picture: Address,
    instead: Address,
    spoiled: Address,
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
pub struct CudaOutgoing<D: Driver> {
    download: <Work<D::Queue> as Queue>::Download,
    /// Where it is copied from.
    _place: Place,
    size: Size,
    depth: Depth,
}

/// Where packed RGB goes, and how.
struct Emitted {
    out: Address,
    rows: usize,
    cols: usize,
    depth: usize,
    rounding: Rounding,
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

/// The bytes of samples, and how many each has.
fn bytes<'a>(samples: &Samples<'a>) -> (&'a [u8], usize) {
    match *samples {
        Samples::U8(samples) => (samples, 1),
        // SAFETY: the same memory, every byte of which is initialised.
        Samples::U16(s) => (unsafe { std::slice::from_raw_parts(s.as_ptr().cast(), size_of_val(s)) }, 2),
    }
}

/// The bytes of samples to be written, and how many each has.
fn bytes_mut<'a>(samples: &'a mut SamplesMut<'_>) -> (&'a mut [u8], usize) {
    match samples {
        SamplesMut::U8(samples) => (samples, 1),
        // SAFETY: the same memory, borrowed for as long; any bytes are samples.
        SamplesMut::U16(s) => (unsafe { std::slice::from_raw_parts_mut(s.as_mut_ptr().cast(), size_of_val(*s)) }, 2),
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

    /// Copies rows of `row` bytes, `stride` apart, to device memory without what lies between them.
    fn upload_rows(&self, to: Address, from: &[u8], stride: usize, row: usize, rows: usize) -> Result<()> {
        if stride == row {
            return self.queue.upload(to, &from[..row * rows]);
        }
        let mut staging = self.staging.lock();
        let packed = first_bytes(&mut staging, row * rows);
        for (to, from) in packed.chunks_exact_mut(row).zip(from.chunks(stride)) {
            to.copy_from_slice(&from[..row]);
        }
        self.queue.upload(to, packed)
    }

    /// The other way round.
    fn download_rows(&self, to: &mut [u8], from: Address, stride: usize, row: usize, rows: usize) -> Result<()> {
        if stride == row {
            return self.queue.download(&mut to[..row * rows], from);
        }
        let mut staging = self.staging.lock();
        let packed = first_bytes(&mut staging, row * rows);
        self.queue.download(packed, from)?;
        for (to, from) in to.chunks_mut(stride).zip(packed.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        Ok(())
    }

    pub(super) fn run_ingest(&self, frame: &Frame<'_>, ingest: &CudaIngest) -> Result<CudaTensor> {
        frame.check()?;
        let Geometry { input, model, .. } = ingest.geometry;
        if (frame.width, frame.height) != (input.width, input.height) {
            return Err(Error::Settings(format!("frame of {}x{}, expected {input}", frame.width, frame.height)));
        }
        let (samples, depth) = bytes(&frame.samples);
        let row = 3 * depth * frame.width;
        let uploaded = self.arena.place(row * frame.height)?;
        self.upload_rows(uploaded.address(), samples, frame.stride * depth, row, frame.height)?;

        let cols = ingest.columns.count as usize;
        let lines = self.arena.place(3 * depth * cols * frame.height)?;
        let args = AcrossArgs {
            frame: uploaded.address(),
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
        if out.width > width || out.height > height {
            return Err(Error::Settings(format!("frame of {}x{} out of {width}x{height}", out.width, out.height)));
        }
        let (rows, cols, stride) = (out.height, out.width, out.stride);
        let (samples, depth) = bytes_mut(&mut out.samples);
        let row = 3 * depth * cols;
        let packed = self.arena.place(row * rows)?;
        let frame = Emitted { out: packed.address(), rows, cols, depth, rounding };
        self.emit_into(&frame, picture, None)?;
        self.download_rows(samples, packed.address(), stride * depth, row, rows)
    }

    /// Writes the top left of `picture` as packed RGB; with `instead`, the top left of that picture where the flag at the
    /// address is set.
    fn emit_into(&self, frame: &Emitted, picture: &CudaTensor, instead: Option<(&CudaTensor, Address)>) -> Result<()> {
        let (height, width) = picture.picture_dims()?;
        let &Emitted { out, rows, cols, depth, rounding } = frame;
        let args = EmitArgs {
            picture: picture.address(),
            instead: instead.map_or(0, |(picture, _)| picture.address()),
            spoiled: instead.map_or(0, |(_, flag)| flag),
            out,
            height: index(height)?,
            width: index(width)?,
            rows: index(rows)?,
            cols: index(cols)?,
            half: match rounding {
                Rounding::Nearest => 0.5,
                Rounding::Truncate => 0.0,
            },
        };
        let blocks = cols.div_ceil(EMIT_THREADS as usize * PIXELS);
        self.launch_one(&EMIT[depth - 1], [blocks, rows, 1], &args)
    }

    pub(super) fn begin_frame(&self, hq: &CudaTensor, lq: &CudaTensor, finish: &Finish) -> Result<CudaOutgoing<D>> {
        let (height, width) = hq.picture_dims()?;
        let &Finish { color_fix, rounding, size, depth } = finish;
        if size.width > width || size.height > height || lq.picture_dims()? != (height, width) {
            return Err(Error::Settings(format!("frame of {size} out of {width}x{height}")));
        }
        // The frame, and behind it whether it is the input's: one copy brings both.
        let bytes = 3 * depth.bytes() * size.width * size.height;
        let flag = bytes.next_multiple_of(FLAG_BYTES);
        let place = self.arena.place(flag + FLAG_BYTES)?;
        let spoiled = place.address() + flag as u64;
        self.flag_unless_finite(hq, spoiled)?;
        let picture = self.run_color_fix(hq, lq, color_fix)?;
        let frame =
            Emitted { out: place.address(), rows: size.height, cols: size.width, depth: depth.bytes(), rounding };
        self.emit_into(&frame, &picture, Some((lq, spoiled)))?;
        let download = self.queue.start_download(place.address(), flag + FLAG_BYTES)?;
        Ok(CudaOutgoing { download, _place: place, size, depth })
    }

    pub(super) fn end_frame(&self, outgoing: CudaOutgoing<D>, out: &mut FrameMut<'_>) -> Result<bool> {
        out.check()?;
        let CudaOutgoing { download, size, depth, .. } = outgoing;
        if (out.width, out.height) != (size.width, size.height) || out.samples.depth() != depth {
            return Err(Error::Settings(format!(
                "output frame of {}x{} in {:?} bits, expected {size} in {depth:?}",
                out.width,
                out.height,
                out.samples.depth()
            )));
        }
        let (stride, row) = (out.stride * depth.bytes(), 3 * depth.bytes() * size.width);
        let (samples, _) = bytes_mut(&mut out.samples);
        let mut replaced = false;
        self.queue.finish_download(download, &mut |brought| {
            for (to, from) in samples.chunks_mut(stride).zip(brought.chunks_exact(row)).take(size.height) {
                to[..row].copy_from_slice(from);
            }
            replaced = brought[brought.len() - FLAG_BYTES..].iter().any(|byte| *byte != 0);
        })?;
        Ok(replaced)
    }
}
