// SPDX-License-Identifier: MPL-2.0

//! The four files of a checkpoint, memory-mapped.

use std::path::{Path, PathBuf};

use crate::backend::HostTensor;
use crate::error::Result;

/// Where the parts of the network take their weights from: a file, or a test's generator.
pub trait Weights {
    /// The tensor `key`, which must have exactly this shape, as contiguous f32 on the CPU.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if it is missing or has another shape.
    fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor>;
}

/// The files of one model directory.
#[derive(Debug)]
pub struct Checkpoint {
    /// `diffusion_pytorch_model_streaming_dmd.safetensors`.
    pub dit: TensorFile,
    /// `LQ_proj_in.ckpt`.
    pub lq: TensorFile,
    /// `TCDecoder.ckpt`.
    pub decoder: TensorFile,
    /// `posi_prompt.pth`: one tensor, under the empty key.
    pub prompt: TensorFile,
    /// `config.json`: whether the decoder's output is added to the LQ picture.
    pub residual: bool,
}

impl Checkpoint {
    /// Maps the files of `dir` and reads their headers.
    pub fn open(dir: &Path) -> Result<Self> {
        todo!("{dir:?}")
    }
}

/// A mapped file of named tensors, safetensors or torch's zip pickle.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
}

impl TensorFile {
    /// Maps `path` and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        todo!("{path:?}")
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Shape of a tensor, if it is there.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        todo!("{key}")
    }

    /// A tensor of the given shape, as f32.
    pub fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        todo!("{key} {shape:?}")
    }
}

impl Weights for TensorFile {
    fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor> {
        TensorFile::get(self, key, shape)
    }
}
