// SPDX-License-Identifier: MPL-2.0

//! Sizes of the network, read off the checkpoint.

use std::fmt::{self, Debug};
use std::ops::RangeInclusive;

use serde::Deserialize;

use super::Layout;
use super::checkpoint::{Checkpoint, TensorFile};
use crate::backend::HEAD_DIM;
use crate::error::{Error, Result};

/// Sizes of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Width of a token.
    pub dim: usize,
    /// Attention heads, `dim / 128`.
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// DiT blocks.
    pub layers: usize,
    /// Width of a prompt token.
    pub text_dim: usize,
    /// Channels of the sinusoidal time embedding.
    pub freq_dim: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Channels after the two convolutions of the LQ projection.
    pub lq_hidden: [usize; 2],
    /// Channels of the four stages of the decoder.
    pub decoder: [usize; 4],
    /// Whether the decoder's output is added to the LQ picture (`"residual": true` in `config.json`).
    pub residual: bool,
}

impl Config {
    /// FlashVSR v1.1 Tiny-Long as it is distributed.
    pub const FLASHVSR_V1_1: Self = Self {
        dim: 1536,
        heads: 12,
        ffn: 8960,
        layers: 30,
        text_dim: 4096,
        freq_dim: 256,
        prompt_tokens: 512,
        lq_hidden: [2048, 3072],
        decoder: [512, 256, 128, 128],
        residual: false,
    };

    /// Reads the sizes off the shapes in `checkpoint`, and `config.json` if there is one, and checks that every tensor
    /// of a model of these sizes is there.
    ///
    /// # Errors
    /// [`Error::Tensor`] names the first tensor that is missing or does not fit the others, [`Error::Read`] the first size
    /// of which `config.json` says otherwise.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self> {
        let Checkpoint { dit, lq, decoder, prompt, residual, declared } = checkpoint;
        let width = Free("dim", 1..=16384);
        let [dim, ..] = measure(dit, "patch_embedding.weight", [&width, &16, &1, &2, &2])?;
        if dim % HEAD_DIM != 0 {
            let expected = format!("dim, a multiple of {HEAD_DIM}");
            return Err(dit.refuse("patch_embedding.weight", &expected, &dim.to_string()));
        }
        let [ffn, _] = measure(dit, "blocks.0.ffn.0.weight", [&Free("ffn", 1..=131_072), &dim])?;
        let [_, text_dim] = measure(dit, "text_embedding.0.weight", [&dim, &Free("text_dim", 1..=65536)])?;
        let [_, freq_dim] = measure(dit, "time_embedding.0.weight", [&dim, &Free("freq_dim", 2..=65536)])?;
        if freq_dim % 2 != 0 {
            return Err(dit.refuse("time_embedding.0.weight", "freq_dim, an even number", &freq_dim.to_string()));
        }
        let [_, prompt_tokens, _] = measure(prompt, "", [&1, &Free("prompt_tokens", 1..=4096), &text_dim])?;

        let hidden = Free("channels", 1..=65536);
        let [first, ..] = measure(lq, "conv1.weight", [&hidden, &768, &4, &3, &3])?;
        let [second, ..] = measure(lq, "conv2.weight", [&hidden, &first, &4, &3, &3])?;

        let channels = Free("channels", 1..=8192);
        let [c0, ..] = measure(decoder, "decoder.1.weight", [&channels, &784, &3, &3])?;
        let [c1, ..] = measure(decoder, "decoder.10.weight", [&channels, &c0, &3, &3])?;
        let [c2, ..] = measure(decoder, "decoder.16.weight", [&channels, &c1, &3, &3])?;
        let [c3, ..] = measure(decoder, "decoder.22.weight", [&channels, &c2, &3, &3])?;

        let config = Self {
            dim,
            heads: dim / HEAD_DIM,
            ffn,
            layers: count_layers(dit)?,
            text_dim,
            freq_dim,
            prompt_tokens,
            lq_hidden: [first, second],
            decoder: [c0, c1, c2, c3],
            residual: *residual,
        };
        config.check(checkpoint)?;
        declared.check(&config, checkpoint)?;
        Ok(config)
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let layout = Layout::new(self);
        let Checkpoint { dit, lq, decoder, prompt, .. } = checkpoint;
        for (file, specs) in [(dit, layout.dit), (lq, layout.lq), (decoder, layout.decoder), (prompt, layout.prompt)] {
            for (key, shape) in specs {
                file.check(&key, &shape)?;
            }
        }
        // A projection into further blocks would be passed over in silence.
        match lq.shape("linear_layers.1.weight") {
            Some(shape) => Err(lq.refuse("linear_layers.1.weight", "nothing: one linear layer", &format!("{shape:?}"))),
            None => Ok(()),
        }
    }
}

/// What `config.json` may say. The sizes follow from the weights and need not be there; one that is must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Declared {
    pub residual: Option<bool>,
    dim: Option<usize>,
    heads: Option<usize>,
    ffn: Option<usize>,
    layers: Option<usize>,
    text_dim: Option<usize>,
    freq_dim: Option<usize>,
    prompt_tokens: Option<usize>,
    lq_hidden: Option<[usize; 2]>,
    decoder: Option<[usize; 4]>,
}

impl Declared {
    const KEYS: [&'static str; 10] =
        ["residual", "dim", "heads", "ffn", "layers", "text_dim", "freq_dim", "prompt_tokens", "lq_hidden", "decoder"];

    /// The key that `key` would be in other letters or with other joints. It would be passed over in silence, as keys of
    /// other programs are.
    pub fn misspelt(key: &str) -> Option<&'static str> {
        let plain = |key: &str| key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        Self::KEYS.into_iter().find(|known| *known != key && plain(known) == plain(key))
    }

    fn check(&self, config: &Config, checkpoint: &Checkpoint) -> Result<()> {
        let Checkpoint { dit, lq, decoder, prompt, .. } = checkpoint;
        agree(dit, "dim", &self.dim, &config.dim)?;
        agree(dit, "heads", &self.heads, &config.heads)?;
        agree(dit, "ffn", &self.ffn, &config.ffn)?;
        agree(dit, "layers", &self.layers, &config.layers)?;
        agree(dit, "text_dim", &self.text_dim, &config.text_dim)?;
        agree(dit, "freq_dim", &self.freq_dim, &config.freq_dim)?;
        agree(prompt, "prompt_tokens", &self.prompt_tokens, &config.prompt_tokens)?;
        agree(lq, "lq_hidden", &self.lq_hidden, &config.lq_hidden)?;
        agree(decoder, "decoder", &self.decoder, &config.decoder)
    }
}

fn agree<T: Debug + PartialEq>(file: &TensorFile, name: &str, declared: &Option<T>, found: &T) -> Result<()> {
    match declared {
        Some(declared) if declared != found => Err(Error::Read {
            path: file.path().into(),
            reason: format!("has {name} {found:?}, but config.json beside it says {declared:?}"),
        }),
        _ => Ok(()),
    }
}

/// What a dimension may be.
trait Dimension: fmt::Display {
    fn allows(&self, size: usize) -> bool;
}

impl Dimension for usize {
    fn allows(&self, size: usize) -> bool {
        size == *self
    }
}

/// A size that the checkpoint chooses, within sane limits.
struct Free(&'static str, RangeInclusive<usize>);

impl Dimension for Free {
    fn allows(&self, size: usize) -> bool {
        self.1.contains(&size)
    }
}

impl fmt::Display for Free {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}-{}", self.0, self.1.start(), self.1.end())
    }
}

/// The shape of a tensor, if it is one of those allowed.
fn measure<const N: usize>(file: &TensorFile, key: &str, allowed: [&dyn Dimension; N]) -> Result<[usize; N]> {
    let expected = || format!("[{}]", allowed.map(ToString::to_string).join(", "));
    let shape = file.shape(key).ok_or_else(|| file.refuse(key, &expected(), &file.absence(key)))?;
    <[usize; N]>::try_from(shape)
        .ok()
        .filter(|shape| shape.iter().zip(allowed).all(|(&size, allowed)| allowed.allows(size)))
        .ok_or_else(|| file.refuse(key, &expected(), &format!("{shape:?}")))
}

/// One more than the highest block that any key names; whether those below are there, [`Config::check`] sees.
fn count_layers(dit: &TensorFile) -> Result<usize> {
    const MAX_LAYERS: usize = 1024;
    let numbers = dit.keys().filter_map(|key| key.strip_prefix("blocks.")?.split('.').next()?.parse::<usize>().ok());
    let last = numbers.max().unwrap_or(0);
    if last >= MAX_LAYERS {
        let expected = format!("at most {MAX_LAYERS} blocks");
        return Err(dit.refuse(&format!("blocks.{last}"), &expected, "one more"));
    }
    Ok(last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn sizes_follow_from_the_shapes() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let config = Config::from_checkpoint(&checkpoint).unwrap();
        let expected = Config {
            dim: 256,
            heads: 2,
            ffn: 512,
            layers: 3,
            text_dim: 64,
            freq_dim: 256,
            prompt_tokens: 16,
            lq_hidden: [64, 96],
            decoder: [32, 16, 16, 16],
            residual: false,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn every_tensor_of_the_layout_can_be_read_as_finite_numbers() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let layout = Layout::new(&Config::from_checkpoint(&checkpoint).unwrap());
        let Checkpoint { dit, lq, decoder, prompt, .. } = &checkpoint;
        for (file, specs) in [(dit, layout.dit), (lq, layout.lq), (decoder, layout.decoder), (prompt, layout.prompt)] {
            assert_eq!(file.keys().count(), specs.len(), "{:?} holds what the layout lists", file.path());
            for (key, shape) in specs {
                let values = file.get(&key, &shape).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(values.iter().all(|value| value.is_finite() && value.abs() < 100.0), "{key}");
            }
        }
    }
}
