// SPDX-License-Identifier: MPL-2.0

//! A checkpoint of the real sizes whose weights are random numbers.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Config, Layout, Spec};
use half::bf16;

/// Random values that are repeated over and over: what the values are changes nothing about how long they take.
const PERIOD: usize = 1 << 20;

/// Writes a model directory, unless it is there.
pub fn write(dir: &Path, config: &Config) -> Result<()> {
    if Checkpoint::open(dir).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let layout = Layout::new(config);
    for (name, specs) in Checkpoint::FILES.iter().zip([layout.dit, layout.lq, layout.decoder, layout.prompt]) {
        write_file(&dir.join(name), &specs).with_context(|| format!("writing {name}"))?;
    }
    Ok(())
}

/// Writes a safetensors file of bf16 numbers, whatever its name: readers look at what is in it.
fn write_file(path: &Path, specs: &[Spec]) -> Result<()> {
    let count = |spec: &Spec| spec.1.iter().product::<usize>();
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for spec in specs {
        let start = end;
        end += 2 * count(spec);
        let info = serde_json::json!({ "dtype": "BF16", "shape": spec.1, "data_offsets": [start, end] });
        header.insert(spec.0.clone(), info);
    }
    let header = serde_json::to_vec(&header)?;
    let mut state = 1u64;
    let values: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        bf16::from_f32((state >> 40) as f32 / (1 << 24) as f32 * 0.1 - 0.05).to_le_bytes()
    })
    .take(PERIOD)
    .flatten()
    .collect();
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut left = end;
    while left > 0 {
        let piece = left.min(values.len());
        file.write_all(&values[..piece])?;
        left -= piece;
    }
    Ok(file.flush()?)
}
