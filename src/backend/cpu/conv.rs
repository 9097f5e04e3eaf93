// SPDX-License-Identifier: MPL-2.0

//! Convolutions as matrix products over patches read in place.
//!
//! Maps have a border of one pixel and channels last, so the three pixels under one row of a 3x3 kernel are one run of
//! `3 * c` values, and the runs of successive pixels start `c` values apart: overlapping [`Rows`]. A convolution is one
//! product over three of these, one for each kernel row. The two columns of border between two lines are computed along and
//! cleared afterwards.

use rayon::prelude::*;

use super::matmul::{Rows, Start, Weights};
use super::simd::{silu, sum_of, vectorised};
use super::tensor::{CpuTensor, Halo, MapDims, fill_halo};
use super::{CpuConv2d, CpuConv3d, CpuUpsampleConv};
use crate::backend::HostTensor;
use crate::backend::upsample::{PHASES, Upsample};
use crate::error::{Error, Result};

/// Pixels of a tile: enough to make packing the weights cheap, few enough for the tile to stay in the second-level cache.
const TILE_PIXELS: usize = 1024;

/// Rows of a tile so that every thread has one.
fn tile_rows(height: usize, pitch: usize, threads: usize) -> usize {
    (TILE_PIXELS / pitch).min(height.div_ceil(threads)).max(1)
}

/// `weight (out, in, taps...)` as `(taps..., in, out)`, flat.
fn taps_first(weight: &HostTensor) -> Result<Vec<f32>> {
    let order: Vec<usize> = (2..weight.rank()).chain([1, 0]).collect();
    Ok(weight.permute(order)?.flatten_all()?.to_vec1()?)
}

pub(super) fn prepare_conv3d(weight: &HostTensor, bias: &HostTensor) -> Result<CpuConv3d> {
    let (outputs, inputs, ..) = weight.dims5()?;
    let (taps, bias, none) = (taps_first(weight)?, bias.to_vec1()?, vec![0.0; outputs]);
    let weights = |(i, tap)| Weights::new(tap, if i == 0 { &bias } else { &none });
    Ok(CpuConv3d { inputs, taps: taps.chunks_exact(3 * inputs * outputs).enumerate().map(weights).collect() })
}

/// `parts` is the number of maps that feed the convolution side by side.
pub(super) fn prepare_conv2d(weight: &HostTensor, bias: Option<&HostTensor>, parts: usize) -> Result<CpuConv2d> {
    let (outputs, inputs, ..) = weight.dims4()?;
    let bias = bias.map_or_else(|| Ok(vec![0.0; outputs]), |b| b.to_vec1())?;
    let inputs = inputs / parts;
    let weight = weight.reshape((outputs, parts, inputs, 3, 3))?.permute((3, 1, 4, 2, 0))?;
    let weights = Weights::new(&weight.flatten_all()?.to_vec1::<f32>()?, &bias);
    Ok(CpuConv2d { inputs, parts, weights })
}

pub(super) fn causal_conv3d(threads: usize, maps: &[CpuTensor], conv: &CpuConv3d) -> Result<Vec<CpuTensor>> {
    const KERNEL_TIME: usize = 4;
    if maps.len() < KERNEL_TIME || !maps.len().is_multiple_of(2) {
        return Err(Error::Compute(format!("causal convolution over {} maps", maps.len())));
    }
    let maps = maps.iter().map(|m| m.with_halo(Halo::Replicate)).collect::<Result<Vec<_>>>()?;
    let dims = maps[0].map_dims()?;
    let Some(first) = conv.taps.first().filter(|_| dims.channels == conv.inputs) else {
        return Err(Error::Compute(format!("convolution of {} channels given {}", conv.inputs, dims.channels)));
    };
    let inputs = maps.iter().map(CpuTensor::values).collect::<Result<Vec<_>>>()?;
    let out_dims = MapDims { channels: first.columns(), ..dims };
    let steps = maps.len() / 2 - 1;
    let (pixels, run) = (dims.height * dims.width, 3 * conv.inputs);
    // At the sizes of the model the weights are far larger than the maps: each is read once, by one thread, for all time
    // steps. Beside that, copying the patches together costs nothing, and leaves the border out. The odd distance keeps rows
    // apart in the cache.
    let stride = run + 16;
    let mut patches = vec![0.0f32; steps * pixels * stride];
    let share = first.panels().div_ceil(threads);
    let mut outs: Vec<_> = (0..first.panels())
        .step_by(share)
        .map(|start| start..first.panels().min(start + share))
        .map(|panels| (first.columns_of(&panels), panels))
        .map(|(columns, panels)| (vec![0.0f32; steps * pixels * columns.len()], columns, panels))
        .collect();
    for (tap, weights) in conv.taps.iter().enumerate() {
        let (dt, dy) = (tap / 3, tap % 3);
        patches.par_chunks_mut(dims.width * stride).enumerate().for_each(|(row, patches)| {
            let (step, y) = (row / dims.height, row % dims.height);
            let line = &inputs[2 * step + dt][(y + dy) * dims.pitch() * conv.inputs..];
            for (patch, source) in patches.chunks_exact_mut(stride).zip(line.windows(run).step_by(conv.inputs)) {
                patch[..run].copy_from_slice(source);
            }
        });
        let left = [Rows { values: &patches, stride, len: run }];
        let start = if tap == 0 { Start::Bias } else { Start::BiasAndOut };
        outs.par_iter_mut().for_each(|(out, columns, panels)| {
            weights.multiply_panels(panels.clone(), &left, steps * pixels, out, columns.len(), start, false);
        });
    }
    let map = |step: usize| {
        let mut map = vec![0.0f32; out_dims.len()];
        for (y, line) in
            map.chunks_exact_mut(out_dims.pitch() * out_dims.channels).skip(1).enumerate().take(dims.height)
        {
            for (x, pixel) in line.chunks_exact_mut(out_dims.channels).skip(1).enumerate().take(dims.width) {
                let at = step * pixels + y * dims.width + x;
                for (out, columns, _) in &outs {
                    pixel[columns.clone()].copy_from_slice(&out[at * columns.len()..][..columns.len()]);
                }
            }
        }
        fill_halo(&mut map, out_dims, Halo::Replicate);
        CpuTensor::map(map, out_dims, Halo::Replicate)
    };
    (0..steps).map(map).collect()
}

/// A map from the values of its pixels.
pub(super) fn with_border(pixels: &[f32], dims: MapDims, halo: Halo) -> Result<CpuTensor> {
    let line = dims.width * dims.channels;
    let mut map = vec![0.0f32; dims.len()];
    for (y, pixels) in pixels.chunks_exact(line).enumerate() {
        map[dims.at(y, 0)..][..line].copy_from_slice(pixels);
    }
    fill_halo(&mut map, dims, halo);
    CpuTensor::map(map, dims, halo)
}

pub(super) fn rms_norm_silu(map: &CpuTensor, gamma: &[f32]) -> Result<CpuTensor> {
    let map = map.with_halo(Halo::Replicate)?;
    let dims = map.map_dims()?;
    let channels = dims.channels;
    let input = map.values()?;
    let mut out = vec![0.0f32; dims.len()];
    let row = dims.pitch() * channels;
    // The border is normalised along: it replicates pixels, and so does its result.
    out.par_chunks_mut(row).zip(input.par_chunks(row)).for_each(|(out, input)| {
        vectorised(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(channels).zip(input.chunks_exact(channels)) {
                    let length = sum_of(x, |v| v * v).sqrt();
                    let scale = (channels as f32).sqrt() / if length < 1e-12 { 1e-12 } else { length };
                    for ((out, x), gamma) in out.iter_mut().zip(x).zip(gamma) {
                        *out = silu(x * scale * gamma);
                    }
                }
            },
        );
    });
    CpuTensor::map(out, dims, Halo::Replicate)
}

pub(super) fn conv2d(
    threads: usize,
    x: &CpuTensor,
    past: Option<&CpuTensor>,
    conv: &CpuConv2d,
    skip: Option<&CpuTensor>,
    relu: bool,
) -> Result<CpuTensor> {
    let maps: Vec<CpuTensor> =
        std::iter::once(x).chain(past).map(|m| m.with_halo(Halo::Zero)).collect::<Result<_>>()?;
    let skip = skip.map(|s| s.with_halo(Halo::Zero)).transpose()?;
    let dims = maps[0].map_dims()?;
    let out_dims = MapDims { channels: conv.weights.columns(), ..dims };
    let fits = conv.inputs == dims.channels
        && maps.len() <= conv.parts
        && maps.iter().all(|m| m.map_dims().ok() == Some(dims));
    if !fits || skip.as_ref().is_some_and(|s| s.map_dims().ok() != Some(out_dims)) {
        return Err(Error::Compute(format!("convolution of {} x {} channels given {dims:?}", conv.parts, conv.inputs)));
    }
    let maps = maps.iter().map(CpuTensor::values).collect::<Result<Vec<_>>>()?;
    let skip = skip.as_ref().map(CpuTensor::values).transpose()?;
    // A layer with two inputs has no past at the very start of a stream.
    let nothing = if maps.len() < conv.parts { vec![0.0f32; dims.len()] } else { Vec::new() };
    let maps: Vec<&[f32]> = (0..conv.parts).map(|i| maps.get(i).map_or(&*nothing, |m| m)).collect();
    let (channels, outputs, pitch) = (dims.channels, out_dims.channels, dims.pitch());
    let row = pitch * outputs;
    let rows = tile_rows(dims.height, pitch, threads);
    let mut out = vec![0.0f32; out_dims.len()];
    out[row..(dims.height + 1) * row].par_chunks_mut(rows * row).enumerate().for_each(|(tile, out)| {
        let first = tile * rows;
        let start = match &skip {
            Some(skip) => {
                out.copy_from_slice(&skip[(first + 1) * row..][..out.len()]);
                Start::BiasAndOut
            }
            None => Start::Bias,
        };
        let parts: Vec<Rows> = (0..3)
            .flat_map(|dy| maps.iter().map(move |map| (dy, map)))
            .map(|(dy, map)| &map[(first + dy) * pitch * channels..])
            .map(|values| Rows { values, stride: channels, len: 3 * channels })
            .collect();
        let pixels = out.len() / outputs - 2;
        conv.weights.multiply(&parts, pixels, &mut out[outputs..], outputs, start, relu);
        clear_border(out, row, outputs);
    });
    CpuTensor::map(out, out_dims, Halo::Zero)
}

/// Zeros in the border columns of whole rows.
fn clear_border(out: &mut [f32], row: usize, channels: usize) {
    for line in out.chunks_exact_mut(row) {
        line[..channels].fill(0.0);
        line[row - channels..].fill(0.0);
    }
}

/// Merges the 1x1 growth into the 3x3 convolution, and that with nearest x2: each of the four output phases (py, px) sees
/// 2x2 input pixels, whose weights are sums of the 3x3 ones. Merged in f64, rounded once. All taps are linear and without
/// bias, so the border stays exact: upsampled zeros are zeros.
pub(super) fn prepare_upsample_conv(grow: &HostTensor, weight: &HostTensor) -> Result<CpuUpsampleConv> {
    let stage = Upsample::new(grow, weight)?;
    let (inputs, columns) = (stage.inputs, stage.columns());
    let phase = |phase| {
        let mut taps = vec![0.0f32; PHASES * inputs * columns];
        taps.par_chunks_mut(inputs * columns).enumerate().for_each(|(tap, taps)| {
            let mut merged = vec![0.0f32; inputs];
            for column in 0..columns {
                stage.tap(phase, column, tap, &mut merged);
                taps.chunks_exact_mut(columns).zip(&merged).for_each(|(row, value)| row[column] = *value);
            }
        });
        Weights::new(&taps, &vec![0.0; columns])
    };
    let phases = (0..PHASES).map(phase).collect();
    Ok(CpuUpsampleConv { inputs, outputs: stage.outputs, times: stage.times, phases })
}

pub(super) fn upsample_conv(
    threads: usize,
    x: &CpuTensor,
    conv: &CpuUpsampleConv,
    relu: bool,
) -> Result<Vec<CpuTensor>> {
    let x = x.with_halo(Halo::Zero)?;
    let dims = x.map_dims()?;
    if dims.channels != conv.inputs {
        return Err(Error::Compute(format!("upsampling of {} channels given {}", conv.inputs, dims.channels)));
    }
    let input = x.values()?;
    let (inputs, outputs, pitch) = (conv.inputs, conv.outputs, dims.pitch());
    let columns = conv.times * outputs;
    let out_dims = MapDims { height: 2 * dims.height, width: 2 * dims.width, channels: outputs };
    let row = out_dims.pitch() * outputs;
    let rows = tile_rows(dims.height, pitch, threads);
    let mut outs: Vec<Vec<f32>> = (0..conv.times).map(|_| vec![0.0f32; out_dims.len()]).collect();
    // One task per tile of rows, with its part of each output map.
    let mut tiles: Vec<Vec<&mut [f32]>> = (0..dims.height.div_ceil(rows)).map(|_| Vec::new()).collect();
    for out in &mut outs {
        let inner = &mut out[row..(out_dims.height + 1) * row];
        tiles.iter_mut().zip(inner.chunks_mut(2 * rows * row)).for_each(|(tile, part)| tile.push(part));
    }
    tiles.into_par_iter().enumerate().for_each(|(tile, mut parts)| {
        let first = tile * rows;
        let lines = rows.min(dims.height - first);
        let pixels = (lines - 1) * pitch + dims.width;
        let mut phase_out = vec![0.0f32; pixels * columns];
        for (phase, weights) in conv.phases.iter().enumerate() {
            let (py, px) = (phase / 2, phase % 2);
            let patches = [0, 1].map(|dy| {
                let values = &input[((first + py + dy) * pitch + px) * inputs..];
                Rows { values, stride: inputs, len: 2 * inputs }
            });
            weights.multiply(&patches, pixels, &mut phase_out, columns, Start::Bias, relu);
            for (t, part) in parts.iter_mut().enumerate() {
                for line in 0..lines {
                    let target = &mut part[(2 * line + py) * row + (1 + px) * outputs..];
                    let source = &phase_out[line * pitch * columns + t * outputs..];
                    for (target, source) in target.chunks_mut(2 * outputs).zip(source.chunks(columns)).take(dims.width)
                    {
                        target[..outputs].copy_from_slice(&source[..outputs]);
                    }
                }
            }
        }
        parts.iter_mut().for_each(|part| clear_border(part, row, outputs));
    });
    outs.into_iter().map(|out| CpuTensor::map(out, out_dims, Halo::Zero)).collect()
}
