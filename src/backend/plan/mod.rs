// SPDX-License-Identifier: MPL-2.0

//! A backend that computes nothing: it counts the bytes that live at a time and the operations that would be done, by
//! running the very code that the other backends run.

mod ledger;

use ledger::Tensor;
pub(crate) use ledger::zeros;
pub use ledger::{Ledger, PlanTensor};

use super::{
    Backend, ColorFix, DraftMask, Epilogue, Frame, FrameMut, Geometry, Grid, HEAD_DIM, HostTensor, KvGroup, OutputSpec,
    Parameter, Qkv, Rope, Rounding, WINDOW_TOKENS,
};
use crate::error::{Error, Result};

const LATENT_CHANNELS: usize = 16;

/// Counts in place of computing.
#[derive(Debug, Default)]
pub struct PlanBackend {
    ledger: Ledger,
}

/// A prepared layer: channels in, channels out, multiplications per output position.
#[derive(Debug)]
pub struct PlanLayer {
    outputs: usize,
    /// Time steps that the layer makes of one.
    times: usize,
    /// Multiply-adds per output position (a row, a pixel).
    cost: usize,
    _weights: Tensor,
}

/// A mask: how many pairs of windows attend.
#[derive(Debug)]
pub struct PlanMask {
    pairs: usize,
}

impl PlanBackend {
    /// The counts so far.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// A picture of the given size.
    pub fn empty_picture(&self, height: usize, width: usize) -> PlanTensor {
        self.ledger.tensor(vec![3, height, width])
    }

    fn layer(&self, weight: &Parameter<'_>, outputs: usize) -> PlanLayer {
        let cost = weight.count();
        PlanLayer { outputs, times: 1, cost, _weights: self.ledger.weights(cost) }
    }

    /// A map with `channels` channels, of the size of `like` times `factor`.
    fn like(&self, like: &PlanTensor, factor: usize, channels: usize) -> Result<PlanTensor> {
        let [h, w, _] = like.map_dims()?;
        Ok(self.ledger.tensor(vec![factor * h, factor * w, channels]))
    }

    fn latents(&self, grid: Grid) -> Vec<PlanTensor> {
        let map = || self.ledger.tensor(vec![2 * grid.rows, 2 * grid.cols, LATENT_CHANNELS]);
        (0..grid.frames).map(|_| map()).collect()
    }
}

impl Backend for PlanBackend {
    type Tensor = PlanTensor;
    type Vector = Tensor;
    type Linear = PlanLayer;
    type Conv3d = PlanLayer;
    type Conv2d = PlanLayer;
    type UpsampleConv = PlanLayer;
    type Mask = PlanMask;
    type Ingest = Geometry;
    type Rope = ();
    type PendingFrame = PlanTensor;

    const QUEUED: bool = false;
    const FRUGAL: bool = false;

    fn vector(&self, v: &HostTensor) -> Result<Tensor> {
        Ok(self.ledger.weights(v.elem_count()))
    }

    fn prepare_linear<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        _: Option<&HostTensor>,
        _: Option<&HostTensor>,
    ) -> Result<PlanLayer> {
        let weight = weight.into();
        let [outputs, _] = weight.dims()?;
        Ok(self.layer(&weight, outputs))
    }

    fn prepare_conv3d<'a>(&self, weight: impl Into<Parameter<'a>>, _: &HostTensor) -> Result<PlanLayer> {
        let weight = weight.into();
        let [outputs, ..] = weight.dims::<5>()?;
        Ok(self.layer(&weight, outputs))
    }

    fn prepare_conv2d<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        _: Option<&HostTensor>,
        _: usize,
    ) -> Result<PlanLayer> {
        let weight = weight.into();
        let [outputs, ..] = weight.dims::<4>()?;
        Ok(self.layer(&weight, outputs))
    }

    fn prepare_upsample_conv(&self, grow: &HostTensor, weight: &HostTensor) -> Result<PlanLayer> {
        let ((outputs, mid, ..), (grown, inputs, ..)) = (weight.dims4()?, grow.dims4()?);
        // Merged: four phases of 2x2 taps, so every output pixel costs four.
        let times = grown / mid.max(1);
        let cost = 4 * inputs * outputs;
        let _weights = self.ledger.weights(4 * times * cost);
        Ok(PlanLayer { outputs, times, cost, _weights })
    }

    fn prepare_ingest(&self, geometry: &Geometry) -> Result<Geometry> {
        Ok(*geometry)
    }

    fn ingest(&self, _: &Frame<'_>, geometry: &Geometry) -> Result<PlanTensor> {
        Ok(self.empty_picture(geometry.model.height, geometry.model.width))
    }

    fn emit(&self, _: &PlanTensor, _: Rounding, _: &mut FrameMut<'_>) -> Result<()> {
        Ok(())
    }

    fn begin_download(&self, hq: &PlanTensor, lq: &PlanTensor, output: &OutputSpec) -> Result<PlanTensor> {
        self.color_fix(hq, lq, output.color_fix)
    }

    fn finish_download(&self, _: PlanTensor, _: &mut FrameMut<'_>) -> Result<bool> {
        Ok(false)
    }

    fn color_fix(&self, hq: &PlanTensor, _: &PlanTensor, _: ColorFix) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(hq.dims().to_vec()))
    }

    fn add(&self, a: &PlanTensor, _: &PlanTensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(a.dims().to_vec()))
    }

    fn is_finite(&self, _: &PlanTensor) -> Result<bool> {
        Ok(true)
    }

    fn pixel_unshuffle(&self, picture: &PlanTensor) -> Result<PlanTensor> {
        let [_, h, w] = picture.map_dims()?;
        Ok(self.ledger.tensor(vec![h / 16, w / 16, 3 * 256]))
    }

    fn causal_conv3d(&self, maps: &[PlanTensor], conv: &PlanLayer) -> Result<Vec<PlanTensor>> {
        let first = maps.first().ok_or_else(|| Error::Compute("convolution over no maps".into()))?;
        (0..(maps.len() / 2).saturating_sub(1))
            .map(|_| {
                let out = self.like(first, 1, conv.outputs)?;
                self.ledger.multiply_adds(out.positions() * conv.cost);
                Ok(out)
            })
            .collect()
    }

    fn rms_norm_silu(&self, map: &PlanTensor, _: &Tensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(map.dims().to_vec()))
    }

    fn rows(&self, _: &[f32], rows: usize, cols: usize) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(vec![rows, cols]))
    }

    fn linear(&self, x: &PlanTensor, layer: &PlanLayer, _: Epilogue<'_, Self>) -> Result<PlanTensor> {
        self.ledger.multiply_adds(x.positions() * layer.cost);
        Ok(self.ledger.tensor(vec![x.positions(), layer.outputs]))
    }

    fn noise(&self, _: u64, _: u64, grid: Grid) -> Result<Vec<PlanTensor>> {
        Ok(self.latents(grid))
    }

    fn embed_patches(&self, _: &[PlanTensor], layer: &PlanLayer, _: &[PlanTensor], grid: Grid) -> Result<PlanTensor> {
        self.ledger.multiply_adds(grid.tokens() * layer.cost);
        Ok(self.ledger.tensor(vec![grid.tokens(), layer.outputs]))
    }

    fn layer_norm(&self, x: &PlanTensor, _: &Tensor, _: &Tensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(x.dims().to_vec()))
    }

    fn rms_norm(&self, x: &PlanTensor, _: &Tensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(x.dims().to_vec()))
    }

    fn rope(&self, _: Rope) -> Result<()> {
        Ok(())
    }

    fn qk_norm_rope(&self, qkv: &PlanTensor, _: &Tensor, _: &Tensor, _: &(), grid: Grid) -> Result<Qkv<PlanTensor>> {
        let dim = qkv.channels() / 3;
        let rows = |n| self.ledger.tensor(vec![n, dim]);
        let tokens = grid.windows() * WINDOW_TOKENS;
        let group = || KvGroup { k: rows(tokens), v: rows(tokens), k_mean: rows(grid.windows()) };
        Ok(Qkv {
            q: rows(grid.tokens()),
            q_mean: rows(grid.groups() * grid.windows()),
            groups: (0..grid.groups()).map(|_| group()).collect(),
        })
    }

    fn draft_mask(&self, q_mean: &PlanTensor, k_means: &[&PlanTensor], params: &DraftMask) -> Result<PlanMask> {
        let heads = q_mean.channels() / HEAD_DIM;
        let keys: usize = k_means.iter().map(|k| k.positions()).sum();
        let windows = params.window_rows * params.window_cols;
        let tables = heads * q_mean.positions() / windows.max(1);
        Ok(PlanMask { pairs: tables * params.top_k.min((windows * keys).saturating_sub(1)) })
    }

    fn block_sparse_attention(
        &self,
        q: &PlanTensor,
        _: &[&KvGroup<PlanTensor>],
        mask: &PlanMask,
    ) -> Result<PlanTensor> {
        self.ledger.multiply_adds(mask.pairs * 2 * WINDOW_TOKENS * WINDOW_TOKENS * HEAD_DIM);
        Ok(self.ledger.tensor(q.dims().to_vec()))
    }

    fn cross_attention(&self, q: &PlanTensor, k: &PlanTensor, _: &PlanTensor) -> Result<PlanTensor> {
        self.ledger.multiply_adds(2 * q.positions() * k.positions() * q.channels());
        Ok(self.ledger.tensor(q.dims().to_vec()))
    }

    fn denoise(&self, _: &[PlanTensor], _: &PlanTensor, grid: Grid) -> Result<Vec<PlanTensor>> {
        Ok(self.latents(grid))
    }

    fn decoder_input(&self, _: [&PlanTensor; 4], latent: &PlanTensor) -> Result<PlanTensor> {
        self.like(latent, 1, 3 * 256 + latent.channels())
    }

    fn conv2d(
        &self,
        x: &PlanTensor,
        _: Option<&PlanTensor>,
        conv: &PlanLayer,
        _: Option<&PlanTensor>,
        _: bool,
    ) -> Result<PlanTensor> {
        self.ledger.multiply_adds(x.positions() * conv.cost);
        self.like(x, 1, conv.outputs)
    }

    fn upsample_conv(&self, x: &PlanTensor, conv: &PlanLayer, _: bool) -> Result<Vec<PlanTensor>> {
        self.ledger.multiply_adds(4 * x.positions() * conv.times * conv.cost);
        (0..conv.times).map(|_| self.like(x, 2, conv.outputs)).collect()
    }

    fn to_picture(&self, map: &PlanTensor) -> Result<PlanTensor> {
        let [h, w, _] = map.map_dims()?;
        Ok(self.empty_picture(h, w))
    }

    fn to_host(&self, x: &PlanTensor) -> Result<HostTensor> {
        Ok(zeros(x.dims())?)
    }

    fn map(&self, values: &HostTensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(values.dims().to_vec()))
    }

    fn picture(&self, values: &HostTensor) -> Result<PlanTensor> {
        Ok(self.ledger.tensor(values.dims().to_vec()))
    }

    fn mask_to_host(&self, _: &PlanMask) -> Result<HostTensor> {
        Err(Error::Compute("a plan has no mask".into()))
    }
}
