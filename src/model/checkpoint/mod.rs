// SPDX-License-Identifier: MPL-2.0

//! The four files of a checkpoint.

mod entry;
mod file;
mod pickle;
mod safetensors;
mod source;
mod strided;
mod torch_zip;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

pub use file::TensorFile;

use super::Loading;
use super::config::Declared;
use crate::backend::{HostTensor, Parameter};
use crate::error::{Error, Result};

/// The DiT's weights.
const DIT: &str = "diffusion_pytorch_model_streaming_dmd.safetensors";
/// The LQ projection's weights.
const LQ: &str = "LQ_proj_in.ckpt";
/// The decoder's weights.
const DECODER: &str = "TCDecoder.ckpt";
/// The embedded prompt.
const PROMPT: &str = "posi_prompt.pth";
/// What the weights do not say themselves; optional.
const CONFIG: &str = "config.json";
/// Bytes of `config.json`.
const MAX_CONFIG: u64 = 1 << 20;

/// Where the parts of the network take their weights from: a file, or a test's generator.
pub trait Weights: Sync {
    /// The tensor `key`, which must have exactly this shape, as contiguous f32 on the CPU.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if it is missing or has another shape.
    fn get(&self, key: &str, shape: &[usize]) -> Result<HostTensor>;

    /// The same tensor, read where and when its values are wanted.
    ///
    /// # Errors
    /// [`crate::Error::Tensor`] if it is missing or has another shape.
    fn parameter(&self, key: &str, shape: &[usize]) -> Result<Parameter<'_>> {
        Ok(self.get(key, shape)?.into())
    }
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
    /// `config.json`: the sizes it gives.
    pub(super) declared: Declared,
}

impl Checkpoint {
    /// Names of the files that every model directory holds, in the order of the fields.
    pub const FILES: [&'static str; 4] = [DIT, LQ, DECODER, PROMPT];

    /// Opens the files of `dir` and reads their headers.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the directory or one of its four files is missing, [`Error::Read`] if one of them, or
    /// `config.json`, is not what its name says.
    pub fn open(dir: &Path) -> Result<Self> {
        let metadata = fs::metadata(dir).map_err(|error| io_error(dir, "model directory", &error))?;
        if !metadata.is_dir() {
            return Err(Error::Read { path: dir.into(), reason: format!("not a directory; {}", cure()) });
        }
        let open =
            |name, what| TensorFile::open_as(&dir.join(name), what).map_err(|error| with_namesake(error, dir, name));
        let declared = read_config(&dir.join(CONFIG))?;
        Ok(Self {
            dit: open(DIT, "DiT weights")?,
            lq: open(LQ, "LQ projection weights")?,
            decoder: open(DECODER, "decoder weights")?,
            prompt: open(PROMPT, "prompt embedding")?,
            residual: declared.residual.unwrap_or(false),
            declared,
        })
    }

    /// Counts what is read from now on in `loading`, which may end it.
    pub(crate) fn follow(&mut self, loading: &Loading) {
        let mut total = 0;
        for file in [&mut self.dit, &mut self.lq, &mut self.decoder, &mut self.prompt] {
            file.follow(loading);
            total += file.bytes();
        }
        loading.start(total);
    }
}

fn io_error(path: &Path, what: &'static str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path: path.into(), what, cure: cure() },
        _ => Error::Read { path: path.into(), reason: error.to_string() },
    }
}

fn cure() -> String {
    format!(
        "a model directory holds {DIT}, {LQ}, {DECODER} and {PROMPT}; \
         those of FlashVSR v1.1 are on Hugging Face under the name JunhaoZhuang/FlashVSR-v1.1"
    )
}

/// Words by which the file of the same purpose is known in other collections of the model, such as those of nodes for
/// ComfyUI.
const NAMESAKES: [(&str, &[&str]); 4] = [
    (DIT, &["flashvsr", "diffusion", "dit"]),
    (LQ, &["lq"]),
    (DECODER, &["tcdecoder", "decoder"]),
    (PROMPT, &["posi", "prompt"]),
];

/// Adds to the error of a file that is not found which file of the directory it may be under another name.
fn with_namesake(error: Error, dir: &Path, name: &str) -> Error {
    let Error::NotFound { path, what, cure } = error else { return error };
    let words = NAMESAKES.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, words)| words);
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|other| {
            let other = other.to_lowercase();
            let extension = Path::new(&other).extension().and_then(|extension| extension.to_str());
            matches!(extension, Some("safetensors" | "ckpt" | "pth" | "pt" | "bin"))
                && !Checkpoint::FILES.iter().any(|known| known.eq_ignore_ascii_case(&other))
                && words.iter().any(|word| other.contains(word))
        })
        .collect();
    names.sort();
    let cure = match names.first() {
        Some(other) => {
            let other = other.escape_debug();
            format!("there is {other}: if that is it under another name, rename it to {name}; {cure}")
        }
        None => cure,
    };
    Error::NotFound { path, what, cure }
}

/// Reads `config.json`; one that is not there says nothing.
fn read_config(path: &Path) -> Result<Declared> {
    let refuse = |reason: String| Error::Read { path: path.into(), reason };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Declared::default()),
        Err(error) => return Err(refuse(error.to_string())),
        Ok(metadata) if !metadata.is_file() => return Err(refuse("not a regular file".into())),
        Ok(metadata) if metadata.len() > MAX_CONFIG => {
            return Err(refuse(format!("has {} bytes, more than the {MAX_CONFIG} allowed", metadata.len())));
        }
        Ok(_) => {}
    }
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_CONFIG).read_to_end(&mut text));
    read.map_err(|error| refuse(error.to_string()))?;
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    if let Some((key, known)) = object.keys().find_map(|key| Some((key, Declared::misspelt(key)?))) {
        return Err(refuse(format!("has \"{}\"; write it \"{known}\"", key.escape_debug())));
    }
    serde_json::from_value(object.into()).map_err(|error| refuse(error.to_string()))
}
