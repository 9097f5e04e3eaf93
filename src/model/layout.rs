// SPDX-License-Identifier: MPL-2.0

//! The tensors of which a model is made.

use super::Config;

/// A tensor's key and its shape.
pub type Spec = (String, Vec<usize>);

/// Keys and shapes of every tensor that a model of given sizes needs, file by file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Tensors of `diffusion_pytorch_model_streaming_dmd.safetensors`.
    pub dit: Vec<Spec>,
    /// Tensors of `LQ_proj_in.ckpt`.
    pub lq: Vec<Spec>,
    /// Tensors of `TCDecoder.ckpt`.
    pub decoder: Vec<Spec>,
    /// The one tensor of `posi_prompt.pth`, under the empty key.
    pub prompt: Vec<Spec>,
}

impl Layout {
    /// The tensors of a model of these sizes.
    pub fn new(config: &Config) -> Self {
        let mut layout = Self { dit: Vec::new(), lq: Vec::new(), decoder: Vec::new(), prompt: Vec::new() };
        dit(&mut layout.dit, config);
        lq(&mut layout.lq, config);
        decoder(&mut layout.decoder, config.decoder);
        layout.prompt.push((String::new(), vec![1, config.prompt_tokens, config.text_dim]));
        layout
    }
}

fn dit(specs: &mut Vec<Spec>, config: &Config) {
    let &Config { dim, ffn, text_dim, freq_dim, .. } = config;
    with_bias(specs, "patch_embedding", &[dim, 16, 1, 2, 2]);
    with_bias(specs, "text_embedding.0", &[dim, text_dim]);
    with_bias(specs, "text_embedding.2", &[dim, dim]);
    with_bias(specs, "time_embedding.0", &[dim, freq_dim]);
    with_bias(specs, "time_embedding.2", &[dim, dim]);
    with_bias(specs, "time_projection.1", &[6 * dim, dim]);
    for layer in 0..config.layers {
        let block = format!("blocks.{layer}");
        specs.push((format!("{block}.modulation"), vec![1, 6, dim]));
        for attention in ["self_attn", "cross_attn"] {
            for linear in ["q", "k", "v", "o"] {
                with_bias(specs, &format!("{block}.{attention}.{linear}"), &[dim, dim]);
            }
            for norm in ["norm_q", "norm_k"] {
                specs.push((format!("{block}.{attention}.{norm}.weight"), vec![dim]));
            }
        }
        with_bias(specs, &format!("{block}.norm3"), &[dim]);
        with_bias(specs, &format!("{block}.ffn.0"), &[ffn, dim]);
        with_bias(specs, &format!("{block}.ffn.2"), &[dim, ffn]);
    }
    specs.push(("head.modulation".into(), vec![1, 2, dim]));
    with_bias(specs, "head.head", &[64, dim]);
}

fn lq(specs: &mut Vec<Spec>, config: &Config) {
    let [first, second] = config.lq_hidden;
    with_bias(specs, "conv1", &[first, 768, 4, 3, 3]);
    specs.push(("norm1.gamma".into(), vec![first, 1, 1, 1]));
    with_bias(specs, "conv2", &[second, first, 4, 3, 3]);
    specs.push(("norm2.gamma".into(), vec![second, 1, 1, 1]));
    with_bias(specs, "linear_layers.0", &[config.dim, second]);
}

/// The numbers are the layers' places in the decoder.
fn decoder(specs: &mut Vec<Spec>, [c0, c1, c2, c3]: [usize; 4]) {
    let weight = |layer: &str, shape: [usize; 4]| (format!("decoder.{layer}.weight"), shape.to_vec());
    with_bias(specs, "decoder.1", &[c0, 784, 3, 3]);
    specs.push(weight("3", [c0, c0, 3, 3]));
    memory_blocks(specs, 5..8, c0);
    specs.push(weight("9.conv", [c0, c0, 1, 1]));
    specs.push(weight("10", [c1, c0, 3, 3]));
    memory_blocks(specs, 11..14, c1);
    specs.push(weight("15.conv", [2 * c1, c1, 1, 1]));
    specs.push(weight("16", [c2, c1, 3, 3]));
    memory_blocks(specs, 17..20, c2);
    specs.push(weight("21.conv", [2 * c2, c2, 1, 1]));
    specs.push(weight("22", [c3, c2, 3, 3]));
    specs.push(weight("24", [c3, c3, 3, 3]));
    with_bias(specs, "decoder.26", &[3, c3, 3, 3]);
}

fn memory_blocks(specs: &mut Vec<Spec>, layers: std::ops::Range<usize>, channels: usize) {
    for layer in layers {
        with_bias(specs, &format!("decoder.{layer}.conv.0"), &[channels, 2 * channels, 3, 3]);
        with_bias(specs, &format!("decoder.{layer}.conv.2"), &[channels, channels, 3, 3]);
        with_bias(specs, &format!("decoder.{layer}.conv.4"), &[channels, channels, 3, 3]);
    }
}

/// A weight, and a bias of its first dimension.
fn with_bias(specs: &mut Vec<Spec>, layer: &str, weight: &[usize]) {
    specs.push((format!("{layer}.weight"), weight.to_vec()));
    specs.push((format!("{layer}.bias"), weight.iter().take(1).copied().collect()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_model_has_its_published_parameter_counts() {
        let layout = Layout::new(&Config::FLASHVSR_V1_1);
        let count = |specs: &[Spec]| specs.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
        assert_eq!(count(&layout.dit), 1_418_996_800);
        assert_eq!(count(&layout.lq), 287_845_888);
        assert_eq!(count(&layout.decoder), 45_338_371);
    }
}
