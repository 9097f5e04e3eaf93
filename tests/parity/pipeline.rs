// SPDX-License-Identifier: MPL-2.0

//! From pictures to frames: schedule, projection, DiT, decoder and colour fix together, on the noise of the files.

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{DType, Tensor};
use gstflashvsr::backend::{Backend, ColorFix, Grid, Size};
use gstflashvsr::model::{DecoderState, Dit, DitParams, DitState, LqProjection, LqState, TcDecoder, Version};
use gstflashvsr::schedule::{LOOK_AHEAD, Schedule};
use gstflashvsr::upscaler::Cancel;

use crate::clip;
use crate::data::{Data, every_pixel, files, model};
use crate::decoder::{self, download, select_frames};
use crate::dit::{Recorder, prediction};
use crate::report::{Report, psnr, values};

const MAX_ABS: f64 = 1e-4;

/// What one run of the network gave.
struct Run {
    t: Tensor,
    t_mod: Tensor,
    /// Cross-attention keys and values of block 0, `(1, tokens, dim)`.
    cross: [Tensor; 2],
    windows: Vec<Window>,
    /// All frames before and after the colour fix, `(1, 3, n, H, W)`.
    raw: Tensor,
    out: Tensor,
}

struct Window {
    frames: usize,
    /// `(1, 16, f, H/8, W/8)`.
    noise_pred: Tensor,
    /// One per block.
    masks: Vec<Tensor>,
}

fn color_fix(name: &str) -> Result<ColorFix> {
    match name {
        "adain" => Ok(ColorFix::Adain),
        "wavelet" => Ok(ColorFix::Wavelet),
        "none" => Ok(ColorFix::None),
        _ => Err(anyhow!("unknown colour fix {name}")),
    }
}

fn run<B: Backend>(b: &B, data: &Data) -> Result<Run> {
    let (checkpoint, config) = model()?;
    let prompt = checkpoint.prompt.get("", &[1, config.prompt_tokens, config.text_dim])?;
    let projection = LqProjection::load(b, &checkpoint.lq, &config, Version::V1_1)?;
    let dit = Dit::load(b, &checkpoint.dit, &prompt, &config)?;
    let decoder = TcDecoder::load(b, &checkpoint.decoder, &config)?;
    let (mut lq_state, mut dit_state, mut decoder_state) =
        (LqState::default(), DitState::default(), DecoderState::default());

    let size = Size::new(data.number("W")?, data.number("H")?);
    let fix = color_fix(data.text("color_fix")?)?;
    let mut pictures = clip::upload(b, &clip::pictures(data.get("clip_small_u8")?)?)?;
    ensure!(pictures.len() == data.number::<usize>("N")?, "{} frames in the clip", pictures.len());
    let total = data.number("F")?;
    let last = pictures.last().context("a clip of one frame or more")?.clone();
    pictures.resize(total, last);

    let schedule = Schedule::default();
    let (mut windows, mut raw, mut out) = (vec![], vec![], vec![]);
    for index in 0..schedule.windows_complete(total as u64) {
        let window = schedule.window(index);
        let projected = &pictures[window.lq_frames.start as usize..window.lq_frames.end as usize];
        let (first, rest) = projected.split_at(if index == 0 { 1 } else { 0 });
        let mut lq = vec![];
        for call in [first].into_iter().filter(|c| !c.is_empty()).chain(rest.chunks(4)) {
            lq.extend(projection.project(b, &mut lq_state, call)?);
        }

        let grid = Grid::new(window.latents as usize, size);
        let noise = data.get(&format!("noise.w{index}"))?;
        let params =
            DitParams::new(data.number("topk_ratio")?, data.number("kv_ratio")?, data.number("local_range")?, &grid)?;
        let mut seen = Recorder::new(b, grid);
        let clean = dit.forward(
            b,
            &mut dit_state,
            &clip::upload_latent(b, noise)?,
            lq,
            grid,
            window.first_latent,
            &params,
            &Cancel::default(),
            &mut seen,
        )?;

        let shown = &pictures[window.output_frames.start as usize..window.output_frames.end as usize];
        let decoded = decoder::window(b, &decoder, &mut decoder_state, shown, &clean)?;
        for (hq, lq) in decoded.iter().zip(shown) {
            out.push(b.color_fix(hq, lq, fix)?);
        }
        let noise_pred = prediction(b, noise, &clean)?;
        windows.push(Window { frames: decoded.len(), noise_pred, masks: seen.masks });
        raw.extend(decoded);
    }
    let (k, v) = dit.cross_kv(0).context("a DiT of one block or more")?;
    Ok(Run {
        t: dit.t().clone(),
        t_mod: dit.t_mod().clone(),
        cross: [b.to_host(k)?.unsqueeze(0)?, b.to_host(v)?.unsqueeze(0)?],
        windows,
        raw: download(b, &raw)?,
        out: download(b, &out)?,
    })
}

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let run = run(b, data)?;
    let [cross_k, cross_v] = &run.cross;
    let whole = [("t", &run.t), ("t_mod", &run.t_mod), ("block0.cross_k", cross_k), ("block0.cross_v", cross_v)];
    for (key, got) in whole {
        if let Some(want) = data.find(key) {
            report.close(key, got, want, MAX_ABS)?;
        }
    }
    let frames: Vec<usize> = run.windows.iter().map(|w| w.frames).collect();
    let want: Vec<usize> = serde_json::from_str(data.text("window_frames")?)?;
    let total = data.number::<usize>("F")? - LOOK_AHEAD as usize;
    report.note(frames == want, format!("frames per window: {frames:?}, expected {want:?}"));
    report.note(
        frames.iter().sum::<usize>() == total,
        format!("frames: {}, expected {total}", frames.iter().sum::<usize>()),
    );
    for (index, window) in run.windows.iter().enumerate() {
        let (step, want) = data.subsampled(&format!("noise_pred.w{index}"))?;
        report.close(&format!("noise_pred.w{index}"), &every_pixel(&window.noise_pred, step)?, want, MAX_ABS)?;
        for (block, mask) in window.masks.iter().enumerate() {
            let key = format!("mask.w{index}.block{block}");
            if let Some(want) = data.find(&key) {
                report.equal(&key, mask, want)?;
            }
        }
    }

    // The raw frames have passed no clamp, so they show what a clamp may hide in the final ones.
    let (step, want) = data.subsampled("raw_before_colorfix")?;
    report.close_picture("raw_before_colorfix", &every_pixel(&run.raw, step)?, want, MAX_ABS)?;
    let (step, want) = data.subsampled("out")?;
    report.close_picture("out", &every_pixel(&run.out, step)?, want, MAX_ABS)?;
    let frames = select_frames(&run.out, data.get("out.frame_ids")?)?;
    report.close_picture("out.frames", &frames, data.get("out.frames")?, MAX_ABS)?;
    let (means, deviations) = moments(&run.out)?;
    report.close("out.mean_per_frame", &means, data.get("out.mean_per_frame")?, MAX_ABS)?;
    report.close("out.std_per_frame", &deviations, data.get("out.std_per_frame")?, MAX_ABS)
}

/// PSNR in dB of the reference's own bf16 run against its run in f32.
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
const PSNR_OF_BF16: f64 = 43.0;

/// A run in 16 bits on the inputs of a run in f32.
#[cfg(any(feature = "emulator", feature = "gpu-tests"))]
pub fn check_rounded<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let run = run(b, data)?;
    for (key, got) in [("raw_before_colorfix", &run.raw), ("out", &run.out)] {
        let (step, want) = data.subsampled(key)?;
        let psnr = psnr(&every_pixel(got, step)?, want)?;
        report.note(psnr >= PSNR_OF_BF16, format!("{key}: PSNR {psnr:.1} dB (limit {PSNR_OF_BF16} dB)"));
    }
    Ok(())
}

/// Mean and biased deviation of each channel of each frame of `(1, 3, n, H, W)`, `[3, n]` each.
fn moments(frames: &Tensor) -> Result<(Tensor, Tensor)> {
    let planes = frames.squeeze(0)?.flatten_from(2)?.to_dtype(DType::F64)?;
    let means = planes.mean_keepdim(2)?;
    let deviations = planes.broadcast_sub(&means)?.sqr()?.mean(2)?.sqrt()?;
    Ok((means.squeeze(2)?, deviations))
}

/// The reference's own bf16 run differs from ours in f32 as it says that it differs from its own in f32.
///
/// Its `psnr_per_frame` was taken over whole frames, of which the file holds a sample, so single frames agree only
/// roughly and their mean well.
pub fn check_bf16<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let pipelines = files("pipeline")?;
    let suffix = data.name.trim_start_matches("bf16");
    let same_run = pipelines.iter().find(|p| p.name.trim_start_matches("pipeline") == suffix).or(pipelines.first());
    let run = run(b, same_run.context("bf16.safetensors needs the inputs of pipeline.safetensors")?)?;

    let (step, want) = data.subsampled("out")?;
    let got = every_pixel(&run.out, step)?;
    ensure!(got.dims() == want.dims(), "shape {:?}, expected {:?}", got.dims(), want.dims());
    let stated = values(data.get("psnr_per_frame")?)?;
    let measured =
        (0..want.dim(2)?).map(|i| psnr(&got.narrow(2, i, 1)?, &want.narrow(2, i, 1)?)).collect::<Result<Vec<_>>>()?;
    ensure!(measured.len() == stated.len(), "{} frames, {} values", measured.len(), stated.len());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mean_measured, mean_stated) = (mean(&measured), mean(&stated));
    let worst = measured.iter().zip(&stated).map(|(m, s)| (m - s).abs()).fold(0.0, f64::max);
    report.note(
        (mean_measured - mean_stated).abs() <= 0.3,
        format!("mean PSNR of the frames: {mean_measured:.2} dB, stated {mean_stated:.2} dB (limit 0.3 dB apart)"),
    );
    report.note(worst <= 1.5, format!("worst frame: {worst:.2} dB from what is stated (limit 1.5 dB)"));
    Ok(())
}
