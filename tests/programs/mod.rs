// SPDX-License-Identifier: MPL-2.0

//! What cargo builds beside a test, by the cargo and for the profile that built the test.
#![allow(dead_code, reason = "no test uses all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The model that the programs run in tests: as small as can be, and untrained.
pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/parity");

/// The program of the example `name`.
pub fn example(name: &str) -> PathBuf {
    build(&["--example", name]).join("examples").join(name)
}

/// The plugin as GStreamer loads it.
pub fn plugin() -> PathBuf {
    // Together with an example the dependencies have the features that they have in tests: nothing is compiled twice.
    build(&["--lib", "--example", "inspect_model"]).join("libgstflashvsr.so")
}

/// Builds something, and gives the directory of the profile.
fn build(what: &[&str]) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let name = match profile.file_name().and_then(|name| name.to_str()).unwrap() {
        "debug" => "dev",
        name => name,
    };
    let mut cargo = Command::new(env!("CARGO"));
    // What cargo tells a test about its package looks to the build scripts of dependencies like a change: they would be
    // compiled anew.
    let of_package =
        |name: &str| name == "OUT_DIR" || ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars().filter(|(name, _)| of_package(name)) {
        cargo.env_remove(name);
    }
    let built = cargo
        .args(["build", "--quiet", "--profile", name, "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .arg("--target-dir")
        .arg(profile.parent().unwrap())
        .args(what)
        .status()
        .unwrap();
    assert!(built.success());
    profile.to_owned()
}
