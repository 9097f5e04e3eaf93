// SPDX-License-Identifier: MPL-2.0

//! Upscales a video file: `cargo run --release --example upscale -- in.mp4 out.mp4`.

mod args;
mod audio;
mod formats;
mod job;
mod paths;
mod progress;
mod run;
mod side_by_side;
mod tally;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use gstreamer as gst;

use crate::args::Args;
use crate::formats::Container;
use crate::job::Job;
use crate::run::Outcome;

fn main() -> ExitCode {
    match upscale(&Args::parse()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(run::INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn upscale(args: &Args) -> Result<Outcome> {
    let container = Container::of(&args.output)?;
    paths::check_input(&args.input)?;
    let model = paths::model(args.model.as_deref())?;
    gst::init()?;
    gstflashvsr::register_static()?;
    let job = Job::new(args, &model, container)?;
    let output = paths::Output::claim(&args.input, &args.output)?;
    let result = run::run(&job);
    if result.is_err() {
        output.discard_if_empty();
    }
    result
}
