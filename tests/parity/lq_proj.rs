// SPDX-License-Identifier: MPL-2.0

//! The LQ projection of both generations, call by call, with its caches.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use gstflashvsr::backend::Backend;
use gstflashvsr::model::{LqProjection, LqState, Version};

use crate::clip;
use crate::data::{Data, model, sampled_like};
use crate::report::Report;

const MAX_ABS: f64 = 5e-5;

pub fn check<B: Backend>(b: &B, data: &Data, report: &mut Report) -> Result<()> {
    let (checkpoint, config) = model()?;
    let small = data.get("clip_small_u8")?;
    if let Some(frame) = data.find("frame0_u8") {
        let (samples, [height, width]) = clip::expand(small)?.swap_remove(0);
        let expanded = Tensor::from_vec(samples, (1, height, width, 3), frame.device())?;
        report.equal("frame0_u8", &expanded, frame)?;
    }
    let pictures = clip::upload(b, &clip::pictures(small)?)?;
    let calls: Vec<(usize, usize)> = serde_json::from_str(data.text("calls")?)?;
    for (name, version) in [("v11", Version::V1_1), ("v1", Version::V1)] {
        if data.starting_with(&format!("{name}.")).is_empty() {
            continue;
        }
        let projection = LqProjection::load(b, &checkpoint.lq, &config, version)?;
        let mut state = LqState::default();
        for (call, &(start, end)) in calls.iter().enumerate() {
            let rows = projection.project(b, &mut state, &pictures[start..end])?;
            let label = format!("{name}.call{call}");
            match (rows, data.find(&label)) {
                (Some(rows), Some(want)) => report.close(&label, &b.to_host(&rows)?.unsqueeze(0)?, want, MAX_ABS)?,
                (Some(_), None) => ensure!(call > 0, "{label} gives tokens"),
                (None, want) => report.note(call == 0 && want.is_none(), format!("{label}: gives nothing")),
            }
            for (layer, maps) in [("conv1", &state.conv1), ("conv2", &state.conv2)] {
                let key = format!("{name}.cache_{layer}.after_call{call}");
                for (suffix, want) in data.starting_with(&key).into_iter().filter(|(s, _)| ["", ".sample"].contains(s))
                {
                    let cache = clip::download_maps(b, maps)?;
                    report.close(&format!("{key}{suffix}"), &sampled_like(&cache, want)?, want, MAX_ABS)?;
                }
            }
        }
    }
    Ok(())
}
