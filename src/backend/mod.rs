// SPDX-License-Identifier: MPL-2.0

//! The devices. [`Backend`] is the small set of fused operations of which the network is made, each as coarse as the
//! fastest kernel wants it; [`crate::model`] calls these and nothing else, so a new device is a new folder here.

pub mod cpu;
pub mod cuda;
mod grid;
mod layout;
pub mod noise;
mod parameter;
mod picture;
pub mod plan;
mod precision;
mod resize;
mod rope;
mod upsample;

pub use grid::{GROUP_FRAMES, Grid, WINDOW_SIDE, WINDOW_TOKENS};
pub use layout::{Affine, Chroma, Color, Component, Extent, Format, Layout, PLANES};
pub use parameter::{Parameter, Values};
pub use picture::{
    Depth, Frame, FrameMut, Geometry, Plane, PlaneMut, Samples, SamplesMut, Size, SizePolicy, WINDOW_PIXELS,
};
pub use precision::{Precision, decode, encode};
pub use resize::Resizer;
pub use rope::{HEAD_DIM, Rope, RopeTables};

use crate::error::{Error, Result};

/// An array on the host as it comes out of a checkpoint: f32, on the CPU, contiguous.
pub type HostTensor = candle_core::Tensor;

/// What happens to a row of a linear layer's result before it is written.
#[derive(Debug)]
pub enum Epilogue<'a, B: Backend + ?Sized> {
    /// Nothing (the bias belongs to the layer).
    None,
    /// GELU in its tanh form.
    Gelu,
    /// `residual + y`, or `residual + gate * y` if the layer has a gate.
    Add(&'a B::Tensor),
}

impl<'a, B: Backend> Epilogue<'a, B> {
    /// What is added to the result of a layer that has a gate or not.
    fn residual(&self, gated: bool) -> Result<Option<&'a B::Tensor>> {
        match self {
            Epilogue::Add(residual) => Ok(Some(residual)),
            Epilogue::None | Epilogue::Gelu if gated => {
                Err(Error::Compute("the result of a gated layer can only be added to a residual".into()))
            }
            Epilogue::None | Epilogue::Gelu => Ok(None),
        }
    }
}

/// Keys and values of one frame pair: `tokens = windows * 128` rows of `dim` columns, in window order.
#[derive(Debug, Clone)]
pub struct KvGroup<T> {
    /// Keys after norm and RoPE, heads.
    pub k: T,
    /// Values, heads.
    pub v: T,
    /// Mean key of each window, `[windows, dim]`.
    pub k_mean: T,
}

/// Queries of all tokens, and keys and values of each frame pair.
#[derive(Debug, Clone)]
pub struct Qkv<T> {
    /// Queries after norm and RoPE, heads `[tokens, dim]`.
    pub q: T,
    /// Mean query of each window, `[groups * windows, dim]`.
    pub q_mean: T,
    /// One per frame pair, oldest first.
    pub groups: Vec<KvGroup<T>>,
}

/// Parameters of the locality-constrained draft mask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DraftMask {
    /// Spatial windows of a frame pair, rows.
    pub window_rows: usize,
    /// Spatial windows of a frame pair, columns.
    pub window_cols: usize,
    /// Side R of the local neighbourhood in windows: rows `r - R/2 ..= r - R/2 + R - 1`.
    pub local_range: usize,
    /// Entries kept per head and frame pair (K); the K largest that are strictly greater than the next one.
    pub top_k: usize,
}

/// How the colours of the output are brought back to those of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColorFix {
    /// Mean and deviation of each channel of each frame (the reference's default path).
    #[default]
    Adain,
    /// The low frequencies of the input, the high ones of the output, five levels.
    Wavelet,
    /// As the decoder gives it.
    None,
}

/// How a sample in [-1, 1] becomes an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// To the nearest integer: half the error of the reference's truncation and no darkening.
    #[default]
    Nearest,
    /// Towards zero, as the reference does.
    Truncate,
}

/// How a picture becomes a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OutputSpec {
    /// Colour correction.
    pub color_fix: ColorFix,
    /// Rounding of samples.
    pub rounding: Rounding,
    /// Size of the frame, which is the top left of the picture.
    pub size: Size,
    /// What its samples are.
    pub format: Format,
}

/// A device that can run the network.
///
/// Activations are handles ([`Backend::Tensor`]): cloning one is cheap, dropping the last one frees its memory. Four
/// kinds of tensor exist, and every operation says which it takes and gives:
///
/// * *rows* `[n, c]`: tokens. Tokens of the DiT are in window order (see [`Grid`]) from embedding to head.
/// * *heads* `[n, c]`: queries, keys and values of whole windows of tokens on their way to sparse attention. How they are
///   stored is the backend's business.
/// * *map* `(h, w, c)`: one feature map at one time step. How a map stores its border is the backend's business.
/// * *picture* `(3, H, W)`: one frame in model range [-1, 1].
pub trait Backend: Send + Sync + 'static {
    /// An activation.
    type Tensor: Clone + Send + Sync + 'static;
    /// One f32 per channel.
    type Vector: Send + Sync + 'static;
    /// A prepared linear layer.
    type Linear: Send + Sync + 'static;
    /// A prepared causal 4x3x3 convolution with temporal stride 2.
    type Conv3d: Send + Sync + 'static;
    /// A prepared 3x3 convolution.
    type Conv2d: Send + Sync + 'static;
    /// A prepared nearest x2, time-grow, 3x3 convolution stage.
    type UpsampleConv: Send + Sync + 'static;
    /// A block mask per head, as sparse rows.
    type Mask: Send + Sync + 'static;
    /// What [`Backend::ingest`] needs for one [`Geometry`].
    type Ingest: Send + Sync + 'static;
    /// What [`Backend::qk_norm_rope`] needs of one window's [`Rope`].
    type Rope: Send + Sync + 'static;
    /// A frame on its way to the host.
    type PendingFrame: Send + 'static;

    /// Whether operations return before their work is done. What is needed later is then better asked for early.
    const QUEUED: bool;

    /// Whether memory is worth more than the time to read a map twice.
    const FRUGAL: bool;

    // --- weights, prepared once -------------------------------------------------------------------------------

    /// A vector `(c)` of per-channel factors or offsets.
    fn vector(&self, v: &HostTensor) -> Result<Self::Vector>;

    /// A linear layer from `weight (out, in)` and `bias (out)`; with a `gate (out)`, one whose result is always added to a
    /// residual ([`Epilogue::Add`]).
    fn prepare_linear<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        gate: Option<&HostTensor>,
    ) -> Result<Self::Linear>;

    /// A convolution from `weight (out, in, 4, 3, 3)` and `bias (out)`.
    fn prepare_conv3d<'a>(&self, weight: impl Into<Parameter<'a>>, bias: &HostTensor) -> Result<Self::Conv3d>;

    /// A convolution from `weight (out, parts * in, 3, 3)` and `bias (out)`; `parts` (1 or 2) maps feed it side by side.
    fn prepare_conv2d<'a>(
        &self,
        weight: impl Into<Parameter<'a>>,
        bias: Option<&HostTensor>,
        parts: usize,
    ) -> Result<Self::Conv2d>;

    /// Nearest x2 upsampling, a 1x1 convolution `grow (g * mid, in, 1, 1)` whose output channels hold g time steps of `mid`
    /// channels each, earliest first, and a 3x3 convolution `weight (out, mid, 3, 3)`. All linear, so implementations may
    /// merge them.
    fn prepare_upsample_conv(&self, grow: &HostTensor, weight: &HostTensor) -> Result<Self::UpsampleConv>;

    /// What is needed to turn frames into pictures under `geometry`.
    fn prepare_ingest(&self, geometry: &Geometry) -> Result<Self::Ingest>;

    // --- pictures -----------------------------------------------------------------------------------------------

    /// Turns a frame into RGB ([`Layout::to_rgb`], chroma interpolated linearly, rounded to [`Layout::depth`]), resizes it
    /// (PIL bicubic, each pass rounded to the frame's depth), crops or extends it, and maps it to [-1, 1]. Gives a picture
    /// of the geometry's model size.
    fn ingest(&self, frame: &Frame<'_>, ingest: &Self::Ingest) -> Result<Self::Tensor>;

    /// Writes the top left of a picture into `out`: clamped, `rounding` to the integers of RGB, and from there, where `out` is
    /// planes, to the nearest sample ([`Layout::from_rgb`]), chroma being a mean of neighbours.
    fn emit(&self, picture: &Self::Tensor, rounding: Rounding, out: &mut FrameMut<'_>) -> Result<()>;

    /// Begins to bring a frame to the host: `hq` corrected by the colours of `lq`, or `lq` itself if `hq` has values that are
    /// not finite.
    fn begin_download(&self, hq: &Self::Tensor, lq: &Self::Tensor, output: &OutputSpec) -> Result<Self::PendingFrame>;

    /// Waits for a frame, writes it into `out`, and tells whether it is `lq`. `out` has the size and the format that
    /// [`Backend::begin_download`] was told.
    fn finish_download(&self, pending: Self::PendingFrame, out: &mut FrameMut<'_>) -> Result<bool>;

    /// `hq` corrected by the colours of `lq`, both pictures, clamped to [-1, 1] unless `fix` is [`ColorFix::None`].
    fn color_fix(&self, hq: &Self::Tensor, lq: &Self::Tensor, fix: ColorFix) -> Result<Self::Tensor>;

    /// The sum of two pictures.
    fn add(&self, a: &Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor>;

    /// Whether every value is finite.
    fn is_finite(&self, x: &Self::Tensor) -> Result<bool>;

    // --- LQ projection ------------------------------------------------------------------------------------------

    /// Space-to-depth by 16: picture `(3, H, W)` to map `(H/16, W/16, 768)`, channel `c*256 + dy*16 + dx`.
    fn pixel_unshuffle(&self, picture: &Self::Tensor) -> Result<Self::Tensor>;

    /// Causal convolution over a sequence of maps, replicate-padded in space: output `i` sees maps `2i..2i+4`, so
    /// `n` maps give `n/2 - 1`.
    fn causal_conv3d(&self, maps: &[Self::Tensor], conv: &Self::Conv3d) -> Result<Vec<Self::Tensor>>;

    /// `silu(x / max(|x|, 1e-12) * sqrt(c) * gamma)` over the channels of each position of a map.
    fn rms_norm_silu(&self, map: &Self::Tensor, gamma: &Self::Vector) -> Result<Self::Tensor>;

    // --- tokens -------------------------------------------------------------------------------------------------

    /// Rows from host values, row-major.
    fn rows(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor>;

    /// A linear layer over rows, or over the positions of a map (which gives rows in row-major order).
    fn linear(&self, x: &Self::Tensor, layer: &Self::Linear, epilogue: Epilogue<'_, Self>) -> Result<Self::Tensor>;

    /// Standard normal noise for window number `window`, see [`noise`]: one map `(H/8, W/8, 16)` per latent frame.
    fn noise(&self, seed: u64, window: u64, grid: Grid) -> Result<Vec<Self::Tensor>>;

    /// Patch embedding. Gathers the 2x2 patches of `latents` (features ordered row, column, channel), applies `layer`, and
    /// adds `lq`: per latent frame the rows of the LQ projection, in row-major order. Gives rows in window order.
    fn embed_patches(
        &self,
        latents: &[Self::Tensor],
        layer: &Self::Linear,
        lq: &[Self::Tensor],
        grid: Grid,
    ) -> Result<Self::Tensor>;

    /// Layer norm without parameters (eps 1e-6), then `x * scale + shift` per column.
    fn layer_norm(&self, x: &Self::Tensor, scale: &Self::Vector, shift: &Self::Vector) -> Result<Self::Tensor>;

    /// The tables of `rope` where the blocks of a window find them.
    fn rope(&self, rope: Rope) -> Result<Self::Rope>;

    /// RMS norm over whole rows (eps 1e-6), times `gamma`.
    fn rms_norm(&self, x: &Self::Tensor, gamma: &Self::Vector) -> Result<Self::Tensor>;

    /// Splits rows `[tokens, 3 * dim]` into queries, keys and values; RMS norm of queries and keys over the whole `dim`,
    /// then RoPE in each head; means over each window; keys and values apart for each frame pair.
    fn qk_norm_rope(
        &self,
        qkv: &Self::Tensor,
        norm_q: &Self::Vector,
        norm_k: &Self::Vector,
        rope: &Self::Rope,
        grid: Grid,
    ) -> Result<Qkv<Self::Tensor>>;

    /// Which key windows each query window of each head attends to; `k_means` are those of all groups, oldest first.
    fn draft_mask(&self, q_mean: &Self::Tensor, k_means: &[&Self::Tensor], params: &DraftMask) -> Result<Self::Mask>;

    /// Attention of each query window to the key windows that the mask allows, as rows; a window without any gives zeros.
    fn block_sparse_attention(
        &self,
        q: &Self::Tensor,
        groups: &[&KvGroup<Self::Tensor>],
        mask: &Self::Mask,
    ) -> Result<Self::Tensor>;

    /// Dense attention of every row of `q` to the rows of `k` and `v`.
    fn cross_attention(&self, q: &Self::Tensor, k: &Self::Tensor, v: &Self::Tensor) -> Result<Self::Tensor>;

    /// Puts the head's rows (`4 * 16` columns: row, column, channel) back into place and subtracts them from the noise:
    /// one clean latent map `(H/8, W/8, 16)` per latent frame.
    fn denoise(&self, noise: &[Self::Tensor], head: &Self::Tensor, grid: Grid) -> Result<Vec<Self::Tensor>>;

    // --- decoder ------------------------------------------------------------------------------------------------

    /// The decoder's input: space-to-depth of four pictures by 4x8x8 (768 channels, `c*256 + dt*64 + dy*8 + dx`), then the
    /// latent's 16 channels, all through `tanh(x / 3) * 3`.
    fn decoder_input(&self, cond: [&Self::Tensor; 4], latent: &Self::Tensor) -> Result<Self::Tensor>;

    /// 3x3 convolution, zero-padded: of `x`, or of `x` and `past` side by side (`None` for a layer with two inputs stands
    /// for zeros); then `+ skip`, then ReLU.
    fn conv2d(
        &self,
        x: &Self::Tensor,
        past: Option<&Self::Tensor>,
        conv: &Self::Conv2d,
        skip: Option<&Self::Tensor>,
        relu: bool,
    ) -> Result<Self::Tensor>;

    /// Runs a prepared upsampling stage: map `(h, w, in)` to g maps `(2h, 2w, out)`, earliest first.
    fn upsample_conv(&self, x: &Self::Tensor, conv: &Self::UpsampleConv, relu: bool) -> Result<Vec<Self::Tensor>>;

    /// Map `(H, W, 3)` to picture, `x * 2 - 1`.
    fn to_picture(&self, map: &Self::Tensor) -> Result<Self::Tensor>;

    // --- for tests and tools ------------------------------------------------------------------------------------

    /// The values of a tensor on the host: rows and heads as `[n, c]`, maps as `[h, w, c]` without border, pictures as
    /// `[3, H, W]`.
    fn to_host(&self, x: &Self::Tensor) -> Result<HostTensor>;

    /// Heads from host values, row-major: whole windows of rows, whole heads of columns.
    fn heads(&self, values: &[f32], rows: usize, cols: usize) -> Result<Self::Tensor> {
        self.rows(values, rows, cols)
    }

    /// A map from host values `[h, w, c]`.
    fn map(&self, values: &HostTensor) -> Result<Self::Tensor>;

    /// A picture from host values `[3, H, W]`.
    fn picture(&self, values: &HostTensor) -> Result<Self::Tensor>;

    /// The mask as `[heads, query windows, key windows]` of 0 and 1.
    fn mask_to_host(&self, mask: &Self::Mask) -> Result<HostTensor>;
}
