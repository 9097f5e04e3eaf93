// SPDX-License-Identifier: MPL-2.0

//! A model directory says what its model is, or what is wrong with it.

mod fixtures;

use std::fs;
use std::path::Path;

use fixtures::model::{edit_each, small_config, small_model, write_model};
use fixtures::{assert_says, write};
use gstflashvsr::Error;
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::model::{Config, Layout};
use tempfile::TempDir;

// Directories.

#[test]
fn a_missing_directory_is_named() {
    let error = Checkpoint::open(Path::new("/no/such/model")).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_says(&error, &["/no/such/model", "model directory", "FlashVSR-v1.1"]);
}

#[test]
fn a_file_in_place_of_the_directory_is_named() {
    let dir = TempDir::new().unwrap();
    let path = write(&dir, "model", b"");
    assert_says(&Checkpoint::open(&path).unwrap_err(), &["model", "not a directory"]);
}

#[test]
fn a_missing_file_is_named_with_the_cure() {
    for name in Checkpoint::FILES {
        let dir = small_model();
        fs::remove_file(dir.path().join(name)).unwrap();
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::NotFound { path, .. } if path.ends_with(name)), "{error}");
        for other in Checkpoint::FILES {
            assert_says(&error, &[other]);
        }
    }
}

#[test]
fn a_file_under_another_name_is_pointed_out() {
    let others = ["FlashVSR1_1.safetensors", "LQ_proj_in.safetensors", "TCDecoder.safetensors", "Prompt.safetensors"];
    let dir = small_model();
    for (name, other) in Checkpoint::FILES.iter().zip(others) {
        fs::rename(dir.path().join(name), dir.path().join(other)).unwrap();
    }
    for (name, other) in Checkpoint::FILES.iter().zip(others) {
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::NotFound { path, .. } if path.ends_with(name)), "{error}");
        assert_says(&error, &[&format!("there is {other}"), &format!("rename it to {name}")]);
        fs::rename(dir.path().join(other), dir.path().join(name)).unwrap();
    }
    Checkpoint::open(dir.path()).unwrap();
}

#[test]
fn a_directory_in_place_of_a_file_is_named() {
    for name in Checkpoint::FILES {
        let dir = small_model();
        fs::remove_file(dir.path().join(name)).unwrap();
        fs::create_dir(dir.path().join(name)).unwrap();
        assert_says(&Checkpoint::open(dir.path()).unwrap_err(), &[name, "not a regular file"]);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_in_place_of_a_file_does_not_hang() {
    let dir = small_model();
    let path = dir.path().join(Checkpoint::FILES[0]);
    fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_says(&Checkpoint::open(dir.path()).unwrap_err(), &[Checkpoint::FILES[0], "not a regular file"]);
}

// Sizes.

#[test]
fn a_small_model_is_measured() {
    let dir = small_model();
    let config = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap();
    assert_eq!(config, small_config());
}

#[test]
fn every_missing_tensor_of_a_model_is_named() {
    edit_each(
        |specs, index| _ = specs.remove(index),
        |error, key| {
            assert!(matches!(error, Error::Tensor { key: named, .. } if named == key), "{key}: {error}");
        },
    );
}

#[test]
fn a_tensor_that_does_not_fit_the_others_is_refused() {
    edit_each(
        |specs, index| specs[index].1.push(2),
        |error, key| {
            assert!(matches!(error, Error::Tensor { key: named, .. } if named == key), "{key}: {error}");
        },
    );
}

#[test]
fn a_gap_in_the_blocks_is_named() {
    let mut layout = Layout::new(&Config { layers: 3, ..small_config() });
    layout.dit.retain(|(key, _)| !key.starts_with("blocks.1."));
    let dir = write_model(&layout);
    let error = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap_err();
    assert_says(&error, &["blocks.1.", "nothing"]);
}

#[test]
fn a_second_linear_layer_of_the_projection_is_refused() {
    let mut layout = Layout::new(&small_config());
    layout.lq.push(("linear_layers.1.weight".into(), vec![128, 2]));
    let dir = write_model(&layout);
    let error = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap_err();
    assert_says(&error, &["LQ_proj_in.ckpt", "linear_layers.1.weight"]);
}

#[test]
fn a_width_that_is_no_multiple_of_a_head_is_refused() {
    let dir = write_model(&Layout::new(&Config { dim: 192, ..small_config() }));
    let error = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap_err();
    assert_says(&error, &["patch_embedding.weight", "multiple of 128", "192"]);
}

#[test]
fn config_json_may_add_residual_and_repeat_the_sizes() {
    let dir = small_model();
    write(
        &dir,
        "config.json",
        br#"{"residual": true, "dim": 128, "decoder": [3, 4, 5, 6], "author": ["unknown", {}]}"#,
    );
    let config = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap();
    assert_eq!(config, Config { residual: true, ..small_config() });
}

#[test]
fn config_json_must_agree_with_the_weights() {
    let dir = small_model();
    for (name, text) in [
        ("dim", r#"{"dim": 256}"#),
        ("heads", r#"{"heads": 2}"#),
        ("ffn", r#"{"ffn": 1}"#),
        ("layers", r#"{"layers": 1}"#),
        ("text_dim", r#"{"text_dim": 1}"#),
        ("freq_dim", r#"{"freq_dim": 2}"#),
        ("prompt_tokens", r#"{"prompt_tokens": 1}"#),
        ("lq_hidden", r#"{"lq_hidden": [2, 1]}"#),
        ("decoder", r#"{"decoder": [3, 4, 5, 7]}"#),
    ] {
        write(&dir, "config.json", text.as_bytes());
        let error = Config::from_checkpoint(&Checkpoint::open(dir.path()).unwrap()).unwrap_err();
        assert_says(&error, &["config.json", name]);
    }
}

#[test]
fn a_key_of_config_json_in_other_letters_is_pointed_out() {
    let dir = small_model();
    for (key, known) in [("Residual", "residual"), ("textDim", "text_dim"), ("lq-hidden", "lq_hidden")] {
        write(&dir, "config.json", format!("{{\"{key}\": null}}").as_bytes());
        let error = Checkpoint::open(dir.path()).unwrap_err();
        assert_says(&error, &["config.json", &format!("\"{key}\""), &format!("\"{known}\"")]);
    }
}

#[test]
fn a_config_json_that_is_none_is_refused() {
    let dir = small_model();
    let long = format!("{{\"x\": \"{}\"}}", "x".repeat(2 << 20));
    let deep = "[".repeat(500_000);
    for text in ["", "{", "[]", "true", r#"{"residual": 1}"#, r#"{"dim": -1}"#, r#"{"lq_hidden": [1]}"#, &long, &deep] {
        write(&dir, "config.json", text.as_bytes());
        assert_says(&Checkpoint::open(dir.path()).unwrap_err(), &["config.json"]);
    }
}
