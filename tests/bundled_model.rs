// SPDX-License-Identifier: MPL-2.0

//! A plugin that lies somewhere with its small model beside it works out of the box, and says what it runs.

mod programs;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use gstflashvsr::model::checkpoint::Checkpoint;
use tempfile::TempDir;

/// A machine on which nothing is installed but the plugin and its small model.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(TempDir::new().unwrap());
        let plugins = machine.dir("plugins");
        fs::copy(programs::plugin(), plugins.join("libgstflashvsr.so")).unwrap();
        machine.model("plugins/flashvsr/small");
        machine
    }

    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn model(&self, name: &str) -> PathBuf {
        let dir = self.dir(name);
        for file in Checkpoint::FILES {
            symlink(Path::new(programs::MODEL).join(file), dir.join(file)).unwrap();
        }
        dir
    }

    /// Runs a pipeline of two elements, and gives its exit code and what it said.
    fn run(&self, variables: &[(&str, &Path)]) -> (bool, String) {
        let source = "videotestsrc num-buffers=1 ! video/x-raw,width=64,height=64 ! flashvsr ! fakesink";
        let output = Command::new("gst-launch-1.0")
            .args(source.split(' ').chain(source.split(' ')))
            .env_remove("FLASHVSR_MODEL")
            .env_remove("XDG_DATA_HOME")
            .env("HOME", self.0.path())
            .env("GST_PLUGIN_PATH", self.0.path().join("plugins"))
            .env("GST_REGISTRY", self.0.path().join("registry"))
            .env("LC_ALL", "C")
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn the_model_beside_the_plugin_runs_and_is_announced_once() {
    let machine = Machine::new();
    let (success, said) = machine.run(&[]);
    assert!(success, "{said}");
    let path = machine.0.path().join("plugins/flashvsr/small");
    assert_eq!(said.matches(path.to_str().unwrap()).count(), 1, "{said}");
    assert!(said.contains("fetch_model"), "{said}");
}

#[test]
fn a_fetched_model_runs_without_a_word() {
    let machine = Machine::new();
    machine.model("data/flashvsr/model");
    let (success, said) = machine.run(&[("XDG_DATA_HOME", &machine.0.path().join("data"))]);
    assert!(success, "{said}");
    assert!(!said.contains("small model"), "{said}");
}

#[test]
fn a_variable_that_leads_nowhere_is_an_error() {
    let machine = Machine::new();
    let (success, said) = machine.run(&[("FLASHVSR_MODEL", Path::new("/nowhere/at/all"))]);
    assert!(!success && said.contains("/nowhere/at/all") && said.contains("TCDecoder.ckpt"), "{said}");
}
