// SPDX-License-Identifier: MPL-2.0

//! Frames as video has them, to packed RGB and back: what `kernels/yuv.cu` says, where the same is done on a GPU.

use rayon::prelude::*;

use super::picture::quantise;
use super::resize::Sample;
use crate::backend::{Chroma, Component, Depth, Layout, PLANES, Plane, PlaneMut, Size};

/// Packed RGB.
pub(super) enum Packed {
    U8(Vec<u8>),
    U16(Vec<u16>),
}

/// A row of a matrix by the components of a pixel.
#[inline(always)]
fn dot([x, y, z]: [f32; 3], [a, b, c]: [f32; 3]) -> f32 {
    x * a + y * b + z * c
}

/// How a component is sampled across and down.
fn axes(layout: &Layout, component: usize) -> [Chroma; 2] {
    if component == 0 { [Chroma::Full; 2] } else { [layout.across, layout.down] }
}

/// The two samples between which a pixel lies, and the share of the second.
#[inline(always)]
fn around(axis: Chroma, pixels: usize, pixel: usize) -> (usize, usize, f32) {
    let (first, odd) = (pixel / 2, pixel % 2 == 1);
    let next = (first + 1).min(axis.samples(pixels) - 1);
    match axis {
        Chroma::Full => (pixel, pixel, 0.0),
        Chroma::Cosited => (first, if odd { next } else { first }, 0.5),
        Chroma::Centred => (first, if odd { next } else { first.saturating_sub(1) }, 0.25),
    }
}

/// The pixels that a sample is made of, and their weights.
#[inline(always)]
fn taps(axis: Chroma, pixels: usize, sample: usize) -> [(usize, f32); 3] {
    let weights = match axis {
        Chroma::Full => return [(sample, 1.0), (sample, 0.0), (sample, 0.0)],
        Chroma::Cosited => [0.25, 0.5, 0.25],
        Chroma::Centred => [0.0, 0.5, 0.5],
    };
    std::array::from_fn(|i| ((2 * sample + i).saturating_sub(1).min(pixels - 1), weights[i]))
}

#[inline(always)]
fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// A sample of one or two bytes.
#[inline(always)]
fn load<const BYTES: usize>(bytes: &[u8], at: usize) -> u16 {
    if BYTES == 1 { bytes[at].into() } else { u16::from_ne_bytes([bytes[at], bytes[at + 1]]) }
}

/// Planes that have been checked as packed RGB of [`Layout::depth`].
pub(super) fn to_rgb(layout: &Layout, planes: &[Plane<'_>; PLANES], size: Size) -> Packed {
    match (layout.sample_bytes(), layout.depth()) {
        (1, Depth::Eight) => Packed::U8(rgb_of::<1, u8>(layout, planes, size, |v| v as u8)),
        (1, Depth::Sixteen) => Packed::U16(rgb_of::<1, u16>(layout, planes, size, |v| v as u16)),
        _ => Packed::U16(rgb_of::<2, u16>(layout, planes, size, |v| v as u16)),
    }
}

fn rgb_of<const BYTES: usize, S: Sample>(
    layout: &Layout,
    planes: &[Plane<'_>; PLANES],
    size: Size,
    truncate: impl Fn(f32) -> S + Sync,
) -> Vec<S> {
    let (matrix, offset) = layout.to_rgb().scaled(1.0, S::MAX.into());
    let mut rgb = vec![S::default(); 3 * size.width * size.height];
    rgb.par_chunks_mut(3 * size.width).enumerate().for_each_init(
        || [(); 3].map(|()| vec![0.0f32; size.width]),
        |lines, (y, out)| {
            for (component, line) in lines.iter_mut().enumerate() {
                read_line::<BYTES>(layout, component, planes, size, y, line);
            }
            let [first, second, third] = &*lines;
            let values = first.iter().zip(second).zip(third).map(|((a, b), c)| [*a, *b, *c]);
            for (pixel, values) in out.chunks_exact_mut(3).zip(values) {
                for ((sample, row), offset) in pixel.iter_mut().zip(matrix).zip(offset) {
                    *sample = truncate((dot(row, values) + offset).clamp(0.0, S::MAX) + 0.5);
                }
            }
        },
    );
    rgb
}

/// A component at each pixel of row `y`.
fn read_line<const BYTES: usize>(
    layout: &Layout,
    component: usize,
    planes: &[Plane<'_>; PLANES],
    size: Size,
    y: usize,
    line: &mut [f32],
) {
    let place = layout.components[component];
    let Plane { bytes, stride } = planes[place.plane];
    let [across, down] = axes(layout, component);
    let (above, below, share) = around(down, size.height, y);
    let sample = |row: usize, x: usize| {
        let at = row * stride + (place.offset + x * place.step) * BYTES;
        f32::from(load::<BYTES>(bytes, at) >> layout.shift)
    };
    let column = |x: usize| match down {
        Chroma::Full => sample(y, x),
        _ => mix(sample(above, x), sample(below, x), share),
    };
    for (x, value) in line.iter_mut().enumerate() {
        *value = match across {
            Chroma::Full => column(x),
            _ => {
                let (left, right, share) = around(across, size.width, x);
                mix(column(left), column(right), share)
            }
        };
    }
}

/// Writes the top left of a picture, whose rows are `width` long, as planes that have been checked. `half` is added to RGB before
/// it is truncated to [`Layout::depth`], as it is for packed RGB.
pub(super) fn from_rgb(
    layout: &Layout,
    planes: &mut [PlaneMut<'_>; PLANES],
    size: Size,
    picture: [&[f32]; 3],
    width: usize,
    half: f32,
) {
    let top = layout.depth().largest();
    let (matrix, offset) = layout.from_rgb().scaled(top, 1.0);
    let line = |y: usize, row: [f32; 3], to: &mut [f32], weight: f32| {
        let [red, green, blue] = picture.map(|plane| &plane[y * width..][..size.width]);
        for (((to, r), g), b) in to.iter_mut().zip(red).zip(green).zip(blue) {
            *to += weight * dot(row, [*r, *g, *b].map(|value| quantise(value, top as f32, half) as u32 as f32));
        }
    };
    let largest = layout.largest();
    for (component, (row, offset)) in matrix.into_iter().zip(offset).enumerate() {
        let [across, down] = axes(layout, component);
        write_lines(
            layout,
            layout.components[component],
            planes,
            down.samples(size.height),
            size.width,
            |y, sums, out| {
                sums.fill(0.0);
                for (y, weight) in taps(down, size.height, y).into_iter().filter(|(_, weight)| *weight > 0.0) {
                    line(y, row, sums, weight);
                }
                for (x, sample) in out[..across.samples(size.width)].iter_mut().enumerate() {
                    let sum: f32 = taps(across, size.width, x).map(|(x, weight)| weight * sums[x]).iter().sum();
                    *sample = ((sum + offset).clamp(0.0, largest as f32) + 0.5) as u32;
                }
                across.samples(size.width)
            },
        );
    }
    if let Some(filler) = layout.filler {
        write_lines(layout, filler, planes, size.height, size.width, |_, _, out| {
            out.fill(largest);
            size.width
        });
    }
}

/// Writes the samples of a component line by line: `make` is given the line's number, scratch, and the samples, both of
/// `width`, and tells how many samples there are.
fn write_lines(
    layout: &Layout,
    place: Component,
    planes: &mut [PlaneMut<'_>; PLANES],
    lines: usize,
    width: usize,
    make: impl Fn(usize, &mut [f32], &mut [u32]) -> usize + Sync,
) {
    let PlaneMut { bytes, stride } = &mut planes[place.plane];
    bytes.par_chunks_mut(*stride).take(lines).enumerate().for_each_init(
        || (vec![0.0f32; width], vec![0u32; width]),
        |(scratch, samples), (y, line)| {
            let count = make(y, scratch, samples);
            for (x, sample) in samples[..count].iter().enumerate() {
                let (at, sample) = (place.offset + x * place.step, sample << layout.shift);
                match layout.sample_bytes() {
                    1 => line[at] = sample as u8,
                    _ => line[2 * at..2 * at + 2].copy_from_slice(&(sample as u16).to_ne_bytes()),
                }
            }
        },
    );
}
