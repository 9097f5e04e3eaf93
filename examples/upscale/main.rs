// SPDX-License-Identifier: MPL-2.0

//! Upscales video files: `cargo run --release --example upscale -- in.mp4 out.mp4`.

mod args;
mod audio;
#[path = "../common/console.rs"]
mod console;
mod element_options;
mod explain;
mod formats;
mod input;
mod interrupts;
mod job;
mod model;
mod outcome;
mod output;
mod progress;
mod run;
mod screen;
mod side_by_side;
mod tally;
mod tasks;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use gstreamer as gst;

use crate::args::Args;
use crate::input::Input;
use crate::interrupts::{Interrupts, Wish};
use crate::job::Job;
use crate::outcome::Outcome;
use crate::output::Output;
use crate::run::Ended;
use crate::screen::{End, Screen};
use crate::tasks::{Task, Tasks};

fn main() -> ExitCode {
    // The options and their ranges are those of the element.
    let registered = gst::init().map_err(anyhow::Error::from).and_then(|()| Ok(gstflashvsr::register_static()?));
    let args = Args::parse();
    let tasks = Tasks::arrange(&args.files, args.output.as_deref()).unwrap_or_else(|refusal| {
        Args::command().error(ErrorKind::WrongNumberOfValues, refusal).exit();
    });
    match registered.and_then(|()| upscale(&args, &tasks)) {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            console::err(format_args!("error: {error:#}"));
            Outcome::Failed.into()
        }
    }
}

/// Does all tasks, one after another.
fn upscale(args: &Args, tasks: &Tasks) -> Result<Outcome> {
    tasks.check(args.overwrite)?;
    let (model, notice) = model::locate(args.model.as_deref())?;
    let interrupts = Interrupts::listen()?;
    let mut screen = Screen::new(args.json);
    if let Some(notice) = notice {
        screen.note(&notice);
    }
    let mut worst = Outcome::Done;
    for (index, task) in tasks.tasks.iter().enumerate() {
        screen.begin(&task.input, &task.output, index + 1, tasks.tasks.len());
        let (outcome, stuck) = match one(args, task, &model, &interrupts, &mut screen) {
            Ok(done) => done,
            Err(error) => {
                screen.end(&End {
                    outcome: Outcome::Failed,
                    output: None,
                    numbers: None,
                    error: Some(format!("{error:#}")),
                });
                (Outcome::Failed, false)
            }
        };
        worst = worst.max(outcome);
        if stuck {
            // The threads of the pipeline do not end, so that it must not be taken apart.
            std::process::exit(worst.code().into());
        }
        if interrupts.wish() != Wish::GoOn {
            break;
        }
    }
    Ok(worst)
}

/// Does one task, and tells whether threads of it are stuck.
fn one(
    args: &Args,
    task: &Task,
    model: &Path,
    interrupts: &Interrupts,
    screen: &mut Screen,
) -> Result<(Outcome, bool)> {
    let Some(output) = begin_output(args, task, interrupts, screen)? else {
        return Ok((Outcome::Interrupted, false));
    };
    let input = Input::open(&task.input)?;
    let job = Job::new(args, &input, &output, model)?;
    let Ended { result, whole, stuck, took } = run::run(&job, &task.input, &task.output, interrupts, screen);
    let numbers = (job.tally.numbers(), took);
    let (outcome, kept) = match result {
        Ok(Outcome::Interrupted) => (Ok(Outcome::Interrupted), if whole { output.keep()? } else { None }),
        Ok(outcome) => (output.finish().map(|()| outcome), Some(task.output.clone())),
        Err(error) => (Err(error), None),
    };
    let (outcome, error) = match outcome {
        Ok(outcome) => (outcome, None),
        Err(error) => (Outcome::Failed, Some(format!("{error:#}"))),
    };
    let output = kept.as_deref().filter(|_| outcome != Outcome::Failed);
    let numbers = (outcome != Outcome::Failed).then_some(numbers);
    screen.end(&End { outcome, output, numbers, error });
    if stuck {
        // Taking a pipeline apart waits for its threads.
        std::mem::forget((job, input));
    }
    Ok((outcome, stuck))
}

/// Makes the output; none if it is a pipe whose reader does not come before the user wants an end.
fn begin_output(args: &Args, task: &Task, interrupts: &Interrupts, screen: &Screen) -> Result<Option<Output>> {
    let mut told = false;
    Output::begin(&task.output, args.overwrite, || {
        if !std::mem::replace(&mut told, true) {
            screen.note(&format!("\"{}\" is a pipe; waiting for its reader", task.output.display()));
        }
        thread::sleep(Duration::from_millis(100));
        interrupts.wish() == Wish::GoOn
    })
}
