// SPDX-License-Identifier: MPL-2.0

//! Convolutions: `kernels/conv.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::gemm::{HOPPER_THREADS, Packed, THREADS, Tile};
use super::packing::{Sizes, Taps};
use super::tensor::{Shape, addresses};
use super::{CudaBackend, CudaTensor, Kernels, index};
use crate::backend::parameter::flat_values;
use crate::backend::upsample::{PHASES, Upsample};
use crate::backend::{HostTensor, Parameter};
use crate::error::{Error, Result};

const CONV: [Kernels; 6] = [
    kernels!("conv", "conv_wide", THREADS, Tile::T128X128_SHARED),
    kernels!("conv", "conv_middle", THREADS, Tile::T128X64_SHARED),
    kernels!("conv", "conv_narrow", THREADS, Tile::T256X16_SHARED),
    kernels!("conv", "conv_odd", THREADS, Tile::T128X64_SHARED),
    kernels!("hopper_conv", "hopper_conv_wide", HOPPER_THREADS, Tile::T128X256_SHARED),
    kernels!("hopper_conv", "hopper_conv_tall", HOPPER_THREADS, Tile::T256X128_SHARED),
];

/// The most output maps of a launch.
const MAX_OUTS: usize = 8;
/// The most input maps: two per output, and two more of the last one's four.
const MAX_MAPS: usize = 2 * MAX_OUTS + 2;
/// Taps along time of a causal convolution.
const KERNEL_TIME: usize = 4;

/// `ConvArgs` of conv.cuh.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct ConvArgs {
    maps: [Address; MAX_MAPS],
    outs: [Address; MAX_OUTS],
    weights: Address,
    bias: Address,
    skip: Address,
    height: u32,
    width: u32,
    inputs: u32,
    columns: u32,
    outputs: u32,
    depth: u32,
    taps: u32,
    side: u32,
    over_time: u32,
    phases: u32,
    replicate: u32,
    relu: u32,
    batches: u32,
    blocks: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for ConvArgs {}

/// A causal 4x3x3 convolution.
pub struct CudaConv3d(Packed);

/// A 3x3 convolution.
pub struct CudaConv2d {
    packed: Packed,
    parts: usize,
}

/// An upsampling stage: a 2x2 convolution for each of the four phases of the output's pixels, to all time steps.
pub struct CudaUpsampleConv {
    packed: Packed,
    outputs: usize,
    times: usize,
}

/// The kinds of convolution, and what each needs beside the GEMM.
#[derive(Clone, Copy)]
enum Kind<'a> {
    OverTime,
    Flat { parts: usize, skip: Option<&'a CudaTensor> },
    Phases,
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn conv3d_layer(&self, weight: &Parameter<'_>, bias: &HostTensor) -> Result<CudaConv3d> {
        let [outputs, inputs, times, rows, cols] = weight.dims()?;
        if (times, rows, cols) != (KERNEL_TIME, 3, 3) {
            return Err(Error::Compute(format!("a causal convolution of {times}x{rows}x{cols}")));
        }
        let taps = KERNEL_TIME * 9;
        let sizes = Sizes { matrices: 1, maps: 1, outputs, taps, inputs };
        Ok(CudaConv3d(self.pack(sizes, Some(flat_values(bias)?), Taps { weight, inputs, kernel_taps: taps })?))
    }

    pub(super) fn conv2d_layer(
        &self,
        weight: &Parameter<'_>,
        bias: Option<&HostTensor>,
        parts: usize,
    ) -> Result<CudaConv2d> {
        let [outputs, all_inputs, rows, cols] = weight.dims()?;
        if (rows, cols) != (3, 3) || !matches!(parts, 1 | 2) || !all_inputs.is_multiple_of(parts) {
            return Err(Error::Compute(format!("a {rows}x{cols} convolution of {all_inputs} inputs in {parts} parts")));
        }
        let inputs = all_inputs / parts;
        let sizes = Sizes { matrices: 1, maps: 1, outputs, taps: 9 * parts, inputs };
        let bias = bias.map(flat_values).transpose()?;
        Ok(CudaConv2d { packed: self.pack(sizes, bias, Taps { weight, inputs, kernel_taps: 9 })?, parts })
    }

    pub(super) fn upsample_layer(&self, grow: &HostTensor, weight: &HostTensor) -> Result<CudaUpsampleConv> {
        let stage = Upsample::new(grow, weight)?;
        let Upsample { inputs, outputs, times, .. } = stage;
        if times > MAX_OUTS {
            return Err(Error::Compute(format!("a growth to {times} time steps; {MAX_OUTS} are the most")));
        }
        let sizes = Sizes { matrices: PHASES, maps: times, outputs, taps: PHASES, inputs };
        let packed = self.pack_columns(self.on_warpgroups(), sizes, None, |phase, columns, to, _| {
            let taps = columns.flat_map(|column| (0..PHASES).map(move |tap| (column, tap)));
            let mut merged = vec![0.0; inputs];
            for ((column, tap), to) in taps.zip(to.chunks_exact_mut(inputs * self.precision.bytes())) {
                stage.tap(phase, column, tap, &mut merged);
                self.precision.encode(&merged, to);
            }
            Ok(())
        })?;
        Ok(CudaUpsampleConv { packed, outputs, times })
    }

    pub(super) fn run_conv3d(&self, maps: &[CudaTensor], conv: &CudaConv3d) -> Result<Vec<CudaTensor>> {
        let CudaConv3d(packed) = conv;
        let [first, ..] = maps else {
            return Err(Error::Compute("causal convolution over no maps".into()));
        };
        if maps.len() < KERNEL_TIME || !maps.len().is_multiple_of(2) {
            return Err(Error::Compute(format!("causal convolution over {} maps", maps.len())));
        }
        let (height, width, _) = first.map_dims()?;
        let outs = (0..maps.len() / 2 - 1)
            .map(|_| self.empty_map(height, width, packed.columns))
            .collect::<Result<Vec<_>>>()?;
        for (step, outs) in (0..).step_by(MAX_OUTS).zip(outs.chunks(MAX_OUTS)) {
            let maps: Vec<_> = maps[2 * step..][..2 * outs.len() + 2].iter().collect();
            self.run_conv(packed, Kind::OverTime, &maps, outs, false)?;
        }
        Ok(outs)
    }

    pub(super) fn run_conv2d(
        &self,
        x: &CudaTensor,
        past: Option<&CudaTensor>,
        conv: &CudaConv2d,
        skip: Option<&CudaTensor>,
        relu: bool,
    ) -> Result<CudaTensor> {
        let (height, width, _) = x.map_dims()?;
        let maps: Vec<_> = std::iter::once(x).chain(past).collect();
        if maps.len() > conv.parts {
            return Err(Error::Compute(format!("convolution of {} maps given {}", conv.parts, maps.len())));
        }
        let out = self.empty_map(height, width, conv.packed.columns)?;
        if let Some(skip) = skip
            && (skip.shape, skip.precision) != (out.shape, out.precision)
        {
            return Err(Error::Compute(format!("a skip of {:?} for {:?}", skip.shape, out.shape)));
        }
        // Weights of the past come last: without one they are left out.
        let kind = Kind::Flat { parts: maps.len(), skip };
        self.run_conv(&conv.packed, kind, &maps, std::slice::from_ref(&out), relu)?;
        Ok(out)
    }

    pub(super) fn run_upsample_conv(
        &self,
        x: &CudaTensor,
        conv: &CudaUpsampleConv,
        relu: bool,
    ) -> Result<Vec<CudaTensor>> {
        let (height, width, _) = x.map_dims()?;
        let outs =
            (0..conv.times).map(|_| self.empty_map(2 * height, 2 * width, conv.outputs)).collect::<Result<Vec<_>>>()?;
        self.run_conv(&conv.packed, Kind::Phases, &[x], &outs, relu)?;
        Ok(outs)
    }

    /// Launches the kernel that computes `outs` from `maps`.
    fn run_conv(
        &self,
        packed: &Packed,
        kind: Kind<'_>,
        maps: &[&CudaTensor],
        outs: &[CudaTensor],
        relu: bool,
    ) -> Result<()> {
        let (height, width, inputs) = maps[0].map_dims()?;
        let shape = Shape::Map(height, width, packed.inputs);
        if let Some(other) = maps.iter().find(|map| map.shape != shape || map.precision != self.precision) {
            return Err(Error::Compute(format!("convolution of {shape:?} given {:?}", other.shape)));
        }
        let (side, taps, batches) = match kind {
            Kind::OverTime => (3, KERNEL_TIME * 9, outs.len()),
            Kind::Flat { parts, .. } => (3, 9 * parts, 1),
            Kind::Phases => (2, PHASES, PHASES),
        };
        let grid = self.gemm_grid(packed, height * width, batches);
        let skip = if let Kind::Flat { skip, .. } = kind { skip } else { None };
        let args = ConvArgs {
            maps: addresses(maps.iter().copied()),
            outs: addresses(outs),
            weights: packed.weights.address(),
            bias: packed.bias.address(),
            skip: skip.map_or(0, CudaTensor::address),
            height: index(height)?,
            width: index(width)?,
            inputs: index(inputs)?,
            columns: index(packed.columns)?,
            outputs: index(packed.columns / if matches!(kind, Kind::Phases) { outs.len() } else { 1 })?,
            depth: packed.depth,
            taps: index(taps)?,
            side,
            over_time: u32::from(matches!(kind, Kind::OverTime)),
            phases: u32::from(matches!(kind, Kind::Phases)),
            replicate: u32::from(matches!(kind, Kind::OverTime)),
            relu: u32::from(relu),
            batches: index(batches)?,
            blocks: index(grid[0])?,
        };
        self.launch(&CONV[packed.tile as usize], grid, &args)
    }
}
