// SPDX-License-Identifier: MPL-2.0

//! The decoder over several windows, its memory carried on.

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use gstflashvsr::backend::Backend;
use gstflashvsr::model::{DecoderState, TcDecoder};
use gstflashvsr::upscaler::Cancel;

use crate::clip;
use crate::data::{Data, every_pixel, model, sampled_like};
use crate::report::Report;

const MAX_ABS: f64 = 1e-4;
/// Layers of the checkpoint that have a memory.
const MEMORY_LAYERS: [usize; 9] = [5, 6, 7, 11, 12, 13, 17, 18, 19];
/// Channels of the condition in front of the latent's.
const COND_CHANNELS: usize = 768;

/// The frames of one window, `(1, 3, n, H, W)`, decoded from its latents under the pictures that it shows. Where these
/// do not fill the latents, the first picture stands in front of them, and what it gives is dropped.
pub fn window<B: Backend>(
    b: &B,
    decoder: &TcDecoder<B>,
    state: &mut DecoderState<B>,
    shown: &[B::Tensor],
    latents: &[B::Tensor],
) -> Result<Vec<B::Tensor>> {
    let in_front = front(shown.len(), latents.len())?;
    let mut frames = Vec::with_capacity(4 * latents.len());
    for (index, latent) in latents.iter().enumerate() {
        let cond = condition(shown, in_front, index);
        frames.extend(decoder.decode(b, state, cond, latent, &Cancel::default())?);
    }
    ensure!(frames.len() == 4 * latents.len(), "{} frames for {} latents", frames.len(), latents.len());
    Ok(frames.split_off(in_front))
}

/// Copies of the first picture in front of `shown` pictures.
fn front(shown: usize, latents: usize) -> Result<usize> {
    (4 * latents).checked_sub(shown).context("no more pictures than frames of the latents")
}

/// The four pictures of latent frame `index`.
fn condition<T>(shown: &[T], in_front: usize, index: usize) -> [&T; 4] {
    [0, 1, 2, 3].map(|i| &shown[(4 * index + i).saturating_sub(in_front)])
}

/// Pictures as `(1, 3, n, H, W)`.
pub fn download<B: Backend>(b: &B, pictures: &[B::Tensor]) -> Result<Tensor> {
    let pictures = pictures.iter().map(|p| Ok(b.to_host(p)?)).collect::<Result<Vec<_>>>()?;
    Ok(Tensor::stack(&pictures, 1)?.unsqueeze(0)?)
}

/// The frames of `(1, 3, n, H, W)` whose numbers `ids` holds.
pub fn select_frames(frames: &Tensor, ids: &Tensor) -> Result<Tensor> {
    Ok(frames.contiguous()?.index_select(&ids.to_dtype(candle_core::DType::U32)?, 2)?)
}

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let (checkpoint, config) = model()?;
    let decoder = TcDecoder::load(b, &checkpoint.decoder, &config)?;
    let pictures = clip::pictures(data.get("cond_small_u8")?)?;
    let (_, height, width) = pictures[0].dims3()?;
    let pictures = clip::upload(b, &pictures)?;
    let seed = data.number("gen_seed")?;

    let (mut state, mut start, mut index) = (DecoderState::default(), 0, 0);
    while let Ok((step, want)) = data.subsampled(&format!("w{index}.out")) {
        let key = |name: &str| format!("w{index}.{name}");
        let shown = &pictures[start..start + want.dim(2)?];
        start += shown.len();
        let latents = clip::latent(&format!("tc.lat{index}"), shown.len().div_ceil(4), height / 8, width / 8, seed);
        let latents = clip::upload_latent(b, &latents)?;
        if let Some(want) = data.find(&format!("pixel_shuffle.w{index}.sample")) {
            check_condition(b, shown, &latents, want, report)?;
        }
        let frames = download(b, &window(b, &decoder, &mut state, shown, &latents)?)?;
        report.close(&key("out.sub"), &every_pixel(&frames, step)?, want, MAX_ABS)?;
        if let Some(want) = data.find(&key("out.frames")) {
            let got = select_frames(&frames, data.get(&key("out.frame_ids"))?)?;
            report.close(&key("out.frames"), &got, want, MAX_ABS)?;
        }
        for (memory, layer) in state.memory.iter().zip(MEMORY_LAYERS) {
            if let Some(want) = data.find(&key(&format!("mem{layer}.sub"))) {
                let map = memory.as_ref().context("a memory after a window")?;
                let map = b.to_host(map)?.permute((2, 0, 1))?.unsqueeze(0)?;
                report.close(&key(&format!("mem{layer}.sub")), &sampled_like(&map, want)?, want, MAX_ABS)?;
            }
        }
        index += 1;
    }
    Ok(())
}

/// The space-to-depth of the condition, `want` a sample `[1, latents, channels, h, w]` from before the clamp.
fn check_condition<B: Backend>(
    b: &B,
    shown: &[B::Tensor],
    latents: &[B::Tensor],
    want: &Tensor,
    report: &mut Report,
) -> Result<()> {
    let in_front = front(shown.len(), latents.len())?;
    let maps = latents.iter().enumerate().map(|(index, latent)| {
        let map = b.to_host(&b.decoder_input(condition(shown, in_front, index), latent)?)?;
        Ok(map.narrow(2, 0, COND_CHANNELS)?.permute((2, 0, 1))?)
    });
    let maps = Tensor::stack(&maps.collect::<Result<Vec<_>>>()?, 0)?.unsqueeze(0)?;
    let clamped = ((want / 3.0)?.tanh()? * 3.0)?;
    report.close("pixel_shuffle, clamped", &sampled_like(&maps, want)?, &clamped, 1e-5)
}
