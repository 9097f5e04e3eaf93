// SPDX-License-Identifier: MPL-2.0

//! Fetches the files of FlashVSR v1.1, checks them, and puts them where the element looks for a model:
//!
//! ```sh
//! cargo run --release --example fetch_model
//! ```

mod checksum;
#[path = "../common/console.rs"]
mod console;
mod hub;
#[path = "../inspect_model/report.rs"]
mod report;
mod watchdog;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use gstflashvsr::model::checkpoint::Checkpoint;
use gstflashvsr::upscaler::Places;

use crate::hub::Hub;
use crate::watchdog::Pulse;

/// The embedded prompt, which the hub may not have.
const PROMPT: &str = "posi_prompt.pth";
/// What the weights do not say themselves; optional.
const CONFIG: &str = "config.json";
/// Where a download is kept until it is complete, in the model directory.
const STAGING: &str = ".fetching";

/// Fetches a model's files from the Hugging Face hub.
///
/// What an earlier run has left is used, and what is there already is only checked. Exit codes: 0 the model can run, 1 it
/// cannot, 2 wrong command line.
#[derive(Debug, Clone, Parser)]
#[command(name = "fetch_model", version)]
struct Args {
    /// The repository
    #[arg(long, value_name = "OWNER/NAME", default_value = "JunhaoZhuang/FlashVSR-v1.1", value_parser = repository)]
    repo: String,

    /// Branch, tag or commit of the repository
    #[arg(long, default_value = "main")]
    revision: String,

    /// Directory for the files; the one in which the element finds them by itself, if not given
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Address of the hub or of a mirror; $HF_ENDPOINT if not given
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,

    /// Seconds without a byte after which to give up
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    patience: u64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            console::err(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Fetches, checks and reports; whether the model can run.
fn run(args: &Args) -> Result<bool> {
    let usual = Places::of_process(None).data;
    let out =
        args.out.clone().or_else(|| usual.clone()).context("there is no home directory; give a place with --out")?;
    fs::create_dir_all(&out).with_context(|| format!("cannot create {}", out.display()))?;
    let (job, place) = (args.clone(), out.clone());
    watchdog::watch(Duration::from_secs(args.patience), move |pulse| fetch(&job, &place, pulse))?;

    console::out("");
    if !out.join(PROMPT).is_file() {
        console::out(format_args!(
            "{PROMPT} is still missing: {} does not have it. It is in the repository of FlashVSR's original code \
             (OpenImagingLab/FlashVSR), in the folder examples/WanVSR/prompt_tensor. Copy it to\n\n    {}\n",
            args.repo,
            out.join(PROMPT).display()
        ));
    }
    let runs = report::print(&out);
    if runs && usual.is_some_and(|usual| usual == out) {
        console::out("the element and the examples find it by themselves");
    } else if runs {
        console::out(format_args!("name it: flashvsr model={0}, or export FLASHVSR_MODEL={0}", out.display()));
    }
    Ok(runs)
}

/// Brings the files into `out`, all of them at once when the last one is complete.
fn fetch(args: &Args, out: &Path, pulse: Pulse) -> Result<()> {
    let endpoint = args.endpoint.clone().or_else(|| std::env::var("HF_ENDPOINT").ok().filter(|url| !url.is_empty()));
    let hub = Hub::connect(endpoint, &args.repo, &args.revision, out.join(STAGING), pulse)?;
    console::out(format_args!("{} at {}, commit {}", args.repo, args.revision, hub.commit));
    let has = |name: &str| hub.names.iter().any(|listed| listed == name);
    if let Some(name) = Checkpoint::FILES.into_iter().find(|name| *name != PROMPT && !has(name)) {
        bail!("{} at {} has no {name}, so that it is no model of FlashVSR's form", args.repo, args.revision);
    }

    let mut arrived = Vec::new();
    for name in Checkpoint::FILES.into_iter().chain([CONFIG]).filter(|name| has(name)) {
        let remote = hub.ask(name)?;
        if hub.is(&remote, &out.join(name))? {
            console::out(format_args!("{name}: is there already"));
            continue;
        }
        arrived.push((hub.fetch(&remote)?, name));
        console::out(format_args!("{name}: fetched and checked"));
    }
    for (from, name) in arrived {
        let to = out.join(name);
        fs::rename(&from, &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    hub.clear()
}

/// `OWNER/NAME`, as it may stand in an address.
fn repository(text: &str) -> Result<String, String> {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    match text.split_once('/') {
        Some((owner, name)) if is_part(owner) && is_part(name) => Ok(text.to_owned()),
        _ => Err("OWNER/NAME is needed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn a_repository_has_an_owner_and_a_name() {
        for wrong in ["", "name", "/name", "owner/", "a/b/c", "../name", "owner/na me", "owner/name?x"] {
            assert!(repository(wrong).is_err(), "{wrong}");
        }
        assert!(repository("JunhaoZhuang/FlashVSR-v1.1").is_ok());
    }
}
