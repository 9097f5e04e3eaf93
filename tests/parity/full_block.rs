// SPDX-License-Identifier: MPL-2.0

//! One DiT block at the real size on generated weights, two steps with a cache.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use candle_core::Tensor;
use gstflashvsr::backend::{Backend, Grid, HostTensor, Rope, WINDOW_SIDE};
use gstflashvsr::model::checkpoint::Weights;
use gstflashvsr::model::{DitBlock, DitParams};

use crate::clip;
use crate::common::{tensor, uniform, unit_variance};
use crate::data::{Data, every};
use crate::dit::{Recorder, in_sequence, in_windows};
use crate::report::Report;

const MAX_ABS: f64 = 5e-5;
/// Width of the feed-forward layer, which no file of this kind holds.
const FFN: usize = 8960;
const PROMPT_TOKENS: usize = 32;

/// Weights made up by the generator.
struct Generated {
    seed: u64,
}

impl Weights for Generated {
    fn get(&self, key: &str, shape: &[usize]) -> gstflashvsr::Result<HostTensor> {
        let in_features = *shape.last().unwrap_or(&1);
        let (scale, offset) = if key.ends_with("modulation") || key.ends_with("t_mod") {
            (0.2 * unit_variance(), 0.0)
        } else if key.ends_with(".weight") && key.contains("norm") {
            (0.1 * unit_variance(), 1.0)
        } else if key.ends_with(".bias") {
            (0.02 * unit_variance(), 0.0)
        } else {
            ((12.0 / in_features as f64).sqrt(), 0.0)
        };
        Ok(tensor(uniform(key, shape.iter().product(), scale, offset, self.seed), shape))
    }
}

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let weights = Generated { seed: data.number("gen_seed")? };
    let dim = data.get("w0.x.tokens")?.dim(2)?;
    for (key, want) in data.starting_with("check.") {
        let (rows, cols) = want.dims2()?;
        let width = if key == "ffn.2.weight" { FFN } else { dim };
        let corner = weights.get(&format!("block.{key}"), &[rows, width])?.narrow(1, 0, cols)?;
        report.equal(&format!("check.{key}"), &corner, want)?;
    }

    let t_mod = weights.get("block.t_mod", &[1, 6, dim])?;
    let context = uniform("block.ctx", PROMPT_TOKENS * dim, unit_variance(), 0.0, weights.seed);
    let context = b.rows(&context, PROMPT_TOKENS, dim)?;
    let block = DitBlock::load(b, &weights, "block.", &t_mod, &context, dim, FFN)?;

    let params = DitParams {
        top_k: data.number("topk")?,
        kv_groups: data.number("kv_len")?,
        local_range: data.number("local_range")?,
    };
    let (mut cache, mut first_latent, mut step) = (VecDeque::new(), 0, 0);
    while let Some(mean) = data.find(&format!("w{step}.out.token_mean")) {
        let key = |name: &str| format!("w{step}.{name}");
        let area = WINDOW_SIDE * WINDOW_SIDE;
        ensure!(mean.dim(1)? % area == 0, "{} tokens are no frames of 8x8", mean.dim(1)?);
        let grid = Grid { frames: mean.dim(1)? / area, rows: WINDOW_SIDE, cols: WINDOW_SIDE };
        let input = clip::tokens(&format!("block.x{step}"), grid, dim, weights.seed);
        let sampled = |rows: &Tensor, want: &Tensor| {
            every(rows, 0, grid.tokens() / want.dim(1)?)?.unsqueeze(0).map_err(anyhow::Error::from)
        };
        let want = data.get(&key("x.tokens"))?;
        report.equal(&key("x.tokens"), &sampled(&input, want)?, want)?;

        let values: Vec<f32> = in_windows(&input, grid)?.flatten_all()?.to_vec1()?;
        let x = b.rows(&values, grid.tokens(), dim)?;
        let rope = b.rope(Rope::new(first_latent, grid.frames, grid.rows, grid.cols))?;
        let mut seen = Recorder::new(b, grid);
        let out = block.forward(b, x, &mut cache, grid, &rope, &params, 0, &mut seen)?;
        let out = in_sequence(&b.to_host(&out)?, grid)?;
        first_latent += grid.frames as u64;

        ensure!(seen.masks.len() == 1, "one mask per block");
        report.equal(&key("mask"), &seen.masks[0], data.get(&key("mask"))?)?;
        let want = data.get(&key("out.tokens"))?;
        report.close(&key("out.tokens"), &sampled(&out, want)?, want, MAX_ABS)?;
        report.close(&key("out.token_mean"), &out.mean(1)?.unsqueeze(0)?, mean, MAX_ABS)?;
        let rms = out.sqr()?.mean(1)?.sqrt()?.unsqueeze(0)?;
        report.close(&key("out.token_rms"), &rms, data.get(&key("out.token_rms"))?, MAX_ABS)?;
        step += 1;
    }
    Ok(())
}
