// SPDX-License-Identifier: MPL-2.0

//! The directory of the model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gstflashvsr::upscaler::{Places, how_to_fetch};

/// The directory of the model: the one given, or the one that the element would find; and what the user ought to know of it.
///
/// # Errors
/// If there is none.
pub fn locate(given: Option<&Path>) -> Result<(PathBuf, Option<String>)> {
    let located = Places::of_process(None).locate(given).with_context(|| {
        format!("no model: point --model or FLASHVSR_MODEL at the FlashVSR v1.1 files; {}", how_to_fetch())
    })?;
    let notice = located.notice("--model");
    let model = located.path;
    ensure!(
        model.is_dir(),
        "there is no model directory \"{}\"; point --model or FLASHVSR_MODEL at the FlashVSR v1.1 files",
        model.display()
    );
    Ok((model, notice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_model_is_named() {
        let error = locate(Some(Path::new("/no/such/model"))).unwrap_err().to_string();
        assert!(error.contains("/no/such/model") && error.contains("--model"), "{error}");
    }
}
