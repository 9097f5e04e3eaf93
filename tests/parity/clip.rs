// SPDX-License-Identifier: MPL-2.0

//! Inputs that are stored small or made: clips, coherent tokens, maps.

use anyhow::Result;
use candle_core::Tensor;
use gstflashvsr::backend::{Backend, Grid};

use crate::common::{tensor, uniform, unit_variance};

/// The frames `(4h, 4w, 3)` of a clip stored as `(n, h + 1, w + 1, 3)`, by integer bilinear enlargement.
pub fn expand(small: &Tensor) -> Result<Vec<(Vec<u8>, [usize; 2])>> {
    let (count, rows, cols, channels) = small.dims4()?;
    let (height, width) = (4 * (rows - 1), 4 * (cols - 1));
    let small: Vec<u8> = small.flatten_all()?.to_vec1()?;
    let frame = |n: usize| {
        let at = |i: usize, j: usize, c: usize| u32::from(small[((n * rows + i) * cols + j) * channels + c]);
        let mut out = Vec::with_capacity(height * width * channels);
        for y in 0..height {
            for x in 0..width {
                let ((i, a), (j, b)) = ((y / 4, y as u32 % 4), (x / 4, x as u32 % 4));
                for c in 0..channels {
                    let top = (4 - a) * ((4 - b) * at(i, j, c) + b * at(i, j + 1, c));
                    let bottom = a * ((4 - b) * at(i + 1, j, c) + b * at(i + 1, j + 1, c));
                    out.push(((top + bottom + 8) >> 4) as u8);
                }
            }
        }
        (out, [height, width])
    };
    Ok((0..count).map(frame).collect())
}

/// The pictures `[3, H, W]` of a clip in model range: divided, then multiplied, then subtracted in f32.
pub fn pictures(small: &Tensor) -> Result<Vec<Tensor>> {
    expand(small)?
        .into_iter()
        .map(|(samples, [height, width])| {
            let values = samples.iter().map(|&s| f32::from(s) / 255.0 * 2.0 - 1.0).collect();
            Ok(tensor(values, &[height, width, 3]).permute((2, 0, 1))?.contiguous()?)
        })
        .collect()
}

/// The pictures of a clip on a backend.
pub fn upload<B: Backend>(b: &B, pictures: &[Tensor]) -> Result<Vec<B::Tensor>> {
    pictures.iter().map(|picture| Ok(b.picture(picture)?)).collect()
}

/// Noise or a latent `(1, 16, f, h, w)`.
pub fn latent(name: &str, frames: usize, height: usize, width: usize, seed: u64) -> Tensor {
    let values = uniform(name, 16 * frames * height * width, unit_variance(), 0.0, seed);
    tensor(values, &[1, 16, frames, height, width])
}

/// The maps `[h, w, 16]` of a latent `(1, 16, f, h, w)` on a backend.
pub fn upload_latent<B: Backend>(b: &B, latent: &Tensor) -> Result<Vec<B::Tensor>> {
    let latent = latent.squeeze(0)?;
    (0..latent.dim(1)?)
        .map(|t| Ok(b.map(&latent.narrow(1, t, 1)?.squeeze(1)?.permute((1, 2, 0))?.contiguous()?)?))
        .collect()
}

/// Maps `[h, w, c]` of a backend, one per time step, as `(1, c, f, h, w)`.
pub fn download_maps<B: Backend>(b: &B, maps: &[B::Tensor]) -> Result<Tensor> {
    let maps = maps.iter().map(|map| Ok(b.to_host(map)?.permute((2, 0, 1))?)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&maps, 1)?.unsqueeze(0)?)
}

/// Coherent tokens `T(name, f, h, w, c)`: rows `[f * h * w, c]` in (frame, row, column) order, alike within a window.
pub fn tokens(name: &str, grid: Grid, channels: usize, seed: u64) -> Tensor {
    let Grid { frames, rows, cols } = grid;
    let values = |part: &str, count: usize| uniform(&format!("{name}.{part}"), count, unit_variance(), 0.0, seed);
    let base = values("base", frames / 2 * (rows / 8) * (cols / 8) * channels);
    let mut out = values("token", grid.tokens() * channels);
    for (token, row) in out.chunks_exact_mut(channels).enumerate() {
        let (t, y, x) = (token / (rows * cols), token / cols % rows, token % cols);
        let window = (t / 2 * (rows / 8) + y / 8) * (cols / 8) + x / 8;
        for (value, base) in row.iter_mut().zip(&base[window * channels..]) {
            *value = base + 0.5 * *value;
        }
    }
    tensor(out, &[grid.tokens(), channels])
}
