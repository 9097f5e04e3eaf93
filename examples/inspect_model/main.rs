// SPDX-License-Identifier: MPL-2.0

//! Says what a model directory holds and whether it can run:
//!
//! ```sh
//! cargo run --release --example inspect_model -- DIR
//! ```

#[path = "../common/console.rs"]
mod console;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Says what a FlashVSR model directory holds and whether it can run.
#[derive(Debug, Parser)]
struct Arguments {
    /// The model directory.
    dir: PathBuf,
}

fn main() -> ExitCode {
    let Arguments { dir } = Arguments::parse();
    if report::print(&dir) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
