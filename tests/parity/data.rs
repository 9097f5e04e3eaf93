// SPDX-License-Identifier: MPL-2.0

//! The files of a parity directory.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use candle_core::{Device, Tensor};
use gstflashvsr::model::Config;
use gstflashvsr::model::checkpoint::Checkpoint;
use safetensors::SafeTensors;

use crate::report::Report;

/// The kinds of file, each the beginning of a name.
const KINDS: [&str; 8] =
    ["lq_proj", "dit_window_", "full_block", "tcdecoder", "color", "pipeline", "bf16", "preprocess"];

/// One file: its tensors and its metadata.
pub struct Data {
    /// The file's name without its extension.
    pub name: String,
    tensors: HashMap<String, Tensor>,
    metadata: HashMap<String, String>,
}

/// The directory under test.
pub fn directory() -> PathBuf {
    match std::env::var_os("FLASHVSR_PARITY_DIR") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity"),
    }
}

/// The model beside the data.
pub fn model() -> Result<(Checkpoint, Config)> {
    let checkpoint = Checkpoint::open(&directory())?;
    let config = Config::from_checkpoint(&checkpoint)?;
    Ok((checkpoint, config))
}

/// Runs `check` on every file of a kind, of which a directory may have none.
pub fn each_file(kind: &str, check: impl Fn(&Data, &mut Report) -> Result<()>) -> Result<()> {
    let files = files(kind)?;
    if files.is_empty() {
        println!("no {kind}*.safetensors in {}", directory().display());
    }
    for data in files {
        println!("{}", data.name);
        let mut report = Report::default();
        check(&data, &mut report).with_context(|| data.name.clone())?;
        report.finish(&data.name)?;
    }
    Ok(())
}

/// The files of a kind, in the order of their names.
///
/// # Errors
/// A directory without any file of any kind is a mistake, not a pass.
pub fn files(kind: &str) -> Result<Vec<Data>> {
    let dir = directory();
    let mut names: Vec<String> = std::fs::read_dir(&dir)
        .with_context(|| format!("parity directory {}", dir.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".safetensors") && KINDS.iter().any(|kind| name.starts_with(kind)))
        .collect();
    ensure!(!names.is_empty(), "{} holds no parity data; set FLASHVSR_PARITY_DIR", dir.display());
    names.retain(|name| name.starts_with(kind));
    names.sort();
    names.iter().map(|name| Data::open(name)).collect()
}

impl Data {
    fn open(name: &str) -> Result<Self> {
        let bytes = std::fs::read(directory().join(name))?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        Ok(Self {
            name: name.trim_end_matches(".safetensors").to_owned(),
            tensors: candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?,
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }

    /// A tensor, if the file has it.
    pub fn find(&self, key: &str) -> Option<&Tensor> {
        self.tensors.get(key)
    }

    /// A tensor that the file must have.
    pub fn get(&self, key: &str) -> Result<&Tensor> {
        self.find(key).ok_or_else(|| anyhow!("{}: no tensor {key}", self.name))
    }

    /// The tensors whose keys begin with `prefix`: what follows it, and the tensor, in the order of the keys.
    pub fn starting_with<'a>(&'a self, prefix: &'a str) -> Vec<(&'a str, &'a Tensor)> {
        let mut found: Vec<_> =
            self.tensors.iter().filter_map(|(key, t)| Some((key.strip_prefix(prefix)?, t))).collect();
        found.sort_by_key(|(key, _)| *key);
        found
    }

    /// The tensor `{key}.subN` and its N.
    pub fn subsampled(&self, key: &str) -> Result<(usize, &Tensor)> {
        let prefix = format!("{key}.sub");
        let found = self.tensors.iter().find_map(|(k, t)| Some((k.strip_prefix(&prefix)?.parse().ok()?, t)));
        found.ok_or_else(|| anyhow!("{}: no tensor {key}.subN", self.name))
    }

    /// A metadata value as it stands.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| anyhow!("{}: no metadata {key}", self.name))
    }

    /// A metadata value as a number.
    pub fn number<T: FromStr>(&self, key: &str) -> Result<T> {
        let text = self.text(key)?;
        text.parse().map_err(|_| anyhow!("{}: metadata {key}: {text:?} is no number", self.name))
    }
}

/// Every `step`-th entry of a dimension.
pub fn every(x: &Tensor, dim: usize, step: usize) -> Result<Tensor> {
    let indices: Vec<u32> = (0..x.dim(dim)? as u32).step_by(step).collect();
    Ok(x.contiguous()?.index_select(&Tensor::new(indices, &Device::Cpu)?, dim)?)
}

/// Every `step`-th row and column: the last two dimensions.
pub fn every_pixel(x: &Tensor, step: usize) -> Result<Tensor> {
    every(&every(x, x.rank() - 1, step)?, x.rank() - 2, step)
}

/// `x` thinned in each dimension to the shape of `sample`, whose step is whatever makes it fit.
pub fn sampled_like(x: &Tensor, sample: &Tensor) -> Result<Tensor> {
    ensure!(x.rank() == sample.rank(), "shape {:?} has no sample of shape {:?}", x.dims(), sample.dims());
    (0..x.rank()).try_fold(x.clone(), |x, dim| {
        let step = x.dim(dim)?.div_ceil(sample.dim(dim)?).max(1);
        if step == 1 { Ok(x) } else { every(&x, dim, step) }
    })
}
