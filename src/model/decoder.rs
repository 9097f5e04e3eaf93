// SPDX-License-Identifier: MPL-2.0

//! The TC decoder: a latent frame and its four LQ frames to four pictures, with a memory of the time step before.

use rayon::prelude::*;

use super::checkpoint::Weights;
use super::{Cancel, Config};
use crate::backend::{Backend, HostTensor};
use crate::error::Result;

/// Channels of the conditioning pictures (3 x 4 x 8 x 8) and the latent (16).
const INPUT_CHANNELS: usize = 784;
/// Memory blocks of each of the first three stages.
const BLOCKS_PER_STAGE: usize = 3;
/// Number of the first memory block of each stage in the checkpoint's list of layers.
const STAGE_LAYERS: [usize; 3] = [5, 11, 17];
/// Time steps that each stage's end makes of one.
const STAGE_GROWTH: [usize; 3] = [1, 2, 2];

/// Convolution 784 -> c0 and its companion, three stages of memory blocks each ended by upsampling, and the way to RGB.
pub struct TcDecoder<B: Backend> {
    input: B::Conv2d,
    widen: B::Conv2d,
    stages: Vec<Stage<B>>,
    refine: B::Conv2d,
    output: B::Conv2d,
}

struct Stage<B: Backend> {
    blocks: Vec<MemoryBlock<B>>,
    /// The stage's end. That of the last stage, whose maps are the largest, makes one time step after the other where
    /// memory is dear.
    upsample: Vec<B::UpsampleConv>,
}

/// `relu(conv(relu(conv(relu(conv(x, past))))) + x)`, past being the block's input at the time step before.
struct MemoryBlock<B: Backend> {
    convs: [B::Conv2d; 3],
}

/// The memory of a stream.
pub struct DecoderState<B: Backend> {
    /// Input of each memory block at the last time step, in the order of the layers; `None` at the very start.
    pub memory: Vec<Option<B::Tensor>>,
}

impl<B: Backend> Default for DecoderState<B> {
    fn default() -> Self {
        Self { memory: Vec::new() }
    }
}

impl<B: Backend> MemoryBlock<B> {
    fn forward(&self, backend: &B, x: B::Tensor, memory: &mut Option<B::Tensor>) -> Result<B::Tensor> {
        let [first, second, third] = &self.convs;
        let y = backend.conv2d(&x, memory.as_ref(), first, None, true)?;
        let y = backend.conv2d(&y, None, second, None, true)?;
        let y = backend.conv2d(&y, None, third, Some(&x), true)?;
        *memory = Some(x);
        Ok(y)
    }
}

impl<B: Backend> TcDecoder<B> {
    /// Loads the layers `decoder.I`.
    pub fn load(backend: &B, weights: &dyn Weights, config: &Config) -> Result<Self> {
        let c = config.decoder;
        let weight = |layer: &str, shape: &[usize]| weights.get(&format!("decoder.{layer}.weight"), shape);
        let conv = |layer: &str, inputs: usize, outputs: usize, bias: bool, parts: usize| {
            let bias: Option<HostTensor> =
                bias.then(|| weights.get(&format!("decoder.{layer}.bias"), &[outputs])).transpose()?;
            let weight = weights.parameter(&format!("decoder.{layer}.weight"), &[outputs, parts * inputs, 3, 3])?;
            backend.prepare_conv2d(weight, bias.as_ref(), parts)
        };
        let stage = |i: usize| {
            let (channels, first) = (c[i], STAGE_LAYERS[i]);
            let block = |layer: usize| {
                Ok(MemoryBlock {
                    convs: [
                        conv(&format!("{layer}.conv.0"), channels, channels, true, 2)?,
                        conv(&format!("{layer}.conv.2"), channels, channels, true, 1)?,
                        conv(&format!("{layer}.conv.4"), channels, channels, true, 1)?,
                    ],
                })
            };
            // Behind the blocks: nearest x2 (no weights), growth in time, convolution.
            let (grow, next) = (first + BLOCKS_PER_STAGE + 1, first + BLOCKS_PER_STAGE + 2);
            let grow = weight(&format!("{grow}.conv"), &[STAGE_GROWTH[i] * channels, channels, 1, 1])?;
            let conv = weight(&next.to_string(), &[c[i + 1], channels, 3, 3])?;
            let parts = if B::FRUGAL && i + 1 == STAGE_LAYERS.len() { STAGE_GROWTH[i] } else { 1 };
            Ok(Stage {
                blocks: (first..first + BLOCKS_PER_STAGE).map(block).collect::<Result<_>>()?,
                upsample: grow
                    .chunk(parts, 0)?
                    .iter()
                    .map(|grow| backend.prepare_upsample_conv(grow, &conv))
                    .collect::<Result<_>>()?,
            })
        };
        Ok(Self {
            input: conv("1", INPUT_CHANNELS, c[0], true, 1)?,
            widen: conv("3", c[0], c[0], false, 1)?,
            stages: (0..STAGE_LAYERS.len()).into_par_iter().map(stage).collect::<Result<_>>()?,
            refine: conv("24", c[3], c[3], false, 1)?,
            output: conv("26", c[3], 3, true, 1)?,
        })
    }

    /// Decodes one latent frame under its four LQ pictures: four pictures, not clamped. Of the first latent frame of a
    /// stream, which is conditioned on the first picture four times, only the last counts.
    pub fn decode(
        &self,
        backend: &B,
        state: &mut DecoderState<B>,
        cond: [&B::Tensor; 4],
        latent: &B::Tensor,
        cancel: &Cancel,
    ) -> Result<Vec<B::Tensor>> {
        state.memory.resize_with(self.stages.len() * BLOCKS_PER_STAGE, || None);
        let x = backend.decoder_input(cond, latent)?;
        let x = backend.conv2d(&x, None, &self.input, None, true)?;
        let mut maps = vec![backend.conv2d(&x, None, &self.widen, None, true)?];
        drop(x);
        let mut pictures = Vec::with_capacity(4);
        self.run_stages(backend, &mut state.memory, 0, &mut maps, &mut pictures, cancel)?;
        Ok(pictures)
    }

    /// Runs stage `depth` and all that follow on each time step in turn, so that only one time step of the large maps
    /// exists at a time.
    fn run_stages(
        &self,
        backend: &B,
        memory: &mut [Option<B::Tensor>],
        depth: usize,
        maps: &mut Vec<B::Tensor>,
        pictures: &mut Vec<B::Tensor>,
        cancel: &Cancel,
    ) -> Result<()> {
        let Some(stage) = self.stages.get(depth) else {
            for x in maps.drain(..) {
                let y = backend.conv2d(&x, None, &self.refine, None, true)?;
                pictures.push(backend.to_picture(&backend.conv2d(&y, None, &self.output, None, false)?)?);
            }
            return Ok(());
        };
        // The last stage's upsampling is followed by a ReLU; the others' by a memory block.
        let relu = depth + 1 == self.stages.len();
        for mut x in maps.drain(..) {
            cancel.check()?;
            let (own, later) = memory.split_at_mut(BLOCKS_PER_STAGE);
            for (block, memory) in stage.blocks.iter().zip(own) {
                x = block.forward(backend, x, memory)?;
            }
            for upsample in &stage.upsample {
                let mut grown = backend.upsample_conv(&x, upsample, relu)?;
                self.run_stages(backend, later, depth + 1, &mut grown, pictures, cancel)?;
            }
        }
        Ok(())
    }
}
