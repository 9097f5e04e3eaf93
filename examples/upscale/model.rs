// SPDX-License-Identifier: MPL-2.0

//! The directory of the model, and the model itself from one job to the next.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use gst::prelude::*;
use gstflashvsr::upscaler::{self, Model, ModelSpec, Places, Precision, Version, how_to_fetch};
use gstreamer as gst;

use crate::element_options::nick;

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

/// The model that `element` has loaded: whoever loads the same one while this is alive finds it in memory.
pub fn hold(element: &gst::Element) -> Option<Arc<dyn Model>> {
    let spec = ModelSpec {
        path: element.property_value("model").get::<PathBuf>().ok()?,
        version: if nick(element, "version") == "v1" { Version::V1 } else { Version::V1_1 },
        device: element.property("device"),
        precision: match nick(element, "precision").as_str() {
            "bf16" => Some(Precision::Bf16),
            "f16" => Some(Precision::F16),
            "f32" => Some(Precision::F32),
            _ => None,
        },
        threads: element.property::<u32>("threads") as usize,
    };
    // It is only to save time.
    upscaler::open(&spec).ok()
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
