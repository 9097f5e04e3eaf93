// SPDX-License-Identifier: MPL-2.0

//! What a model directory holds, in a table.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use gstflashvsr::model::Config;
use gstflashvsr::model::checkpoint::{Checkpoint, TensorFile};

use crate::console;

/// Says what `dir` holds, and returns whether it can run.
pub fn print(dir: &Path) -> bool {
    console::out(format_args!("model directory {}\n", dir.display()));
    console::out(format_args!("{:<51} {:>10} {:>8} {:>14}  stored as", "file", "size", "tensors", "parameters"));
    for name in Checkpoint::FILES {
        console::out(format_args!("{name:<51} {}", describe(&dir.join(name))));
    }
    let config = if dir.join("config.json").is_file() { "found" } else { "none (optional)" };
    console::out(format_args!("{:<51} {config:>10}\n", "config.json"));

    match Checkpoint::open(dir).and_then(|checkpoint| Config::from_checkpoint(&checkpoint)) {
        Ok(config) => {
            print_config(&config);
            console::out("\ncan run: yes");
            true
        }
        Err(error) => {
            console::out(format_args!("can run: no, because {error}"));
            false
        }
    }
}

/// The columns after a file's name.
fn describe(path: &Path) -> String {
    let Ok(metadata) = fs::metadata(path) else { return format!("{:>10}", "missing") };
    let size = bytes(metadata.len());
    match TensorFile::open(path) {
        Ok(file) => {
            let shapes = file.keys().filter_map(|key| file.shape(key));
            let parameters = thousands(shapes.map(|shape| shape.iter().product::<usize>() as u128).sum());
            format!("{size:>10} {:>8} {parameters:>14}  {}", file.keys().count(), dtypes(&file))
        }
        Err(_) => format!("{size:>10} {:>8}", "unreadable"),
    }
}

/// "bf16", or "bf16 (820), f32 (6)" if there are several.
fn dtypes(file: &TensorFile) -> String {
    let mut counts = BTreeMap::new();
    for dtype in file.keys().filter_map(|key| file.dtype(key)) {
        *counts.entry(dtype).or_insert(0) += 1;
    }
    if counts.len() == 1 {
        return counts.into_keys().collect();
    }
    counts.iter().map(|(dtype, count)| format!("{dtype} ({count})")).collect::<Vec<_>>().join(", ")
}

fn print_config(config: &Config) {
    let Config { dim, heads, ffn, layers, text_dim, freq_dim, prompt_tokens, lq_hidden, decoder, residual } = config;
    let [first, second] = lq_hidden;
    let [c0, c1, c2, c3] = decoder;
    console::out(format_args!(
        "DiT            {layers} blocks, width {dim} = {heads} x 128, feed-forward {ffn}, time embedding {freq_dim}"
    ));
    console::out(format_args!("LQ projection  768 -> {first} -> {second} -> {dim}"));
    console::out(format_args!(
        "decoder        784 -> {c0} -> {c1} -> {c2} -> {c3} -> 3{}",
        if *residual { ", added to the input" } else { "" }
    ));
    console::out(format_args!("prompt         {prompt_tokens} tokens of width {text_dim}"));
}

/// "6.0 MiB".
fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{size:.1} {unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1} GiB")
}

/// "1 418 996 800".
fn thousands(count: u128) -> String {
    let digits = count.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(" ")
}
