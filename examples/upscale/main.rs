// SPDX-License-Identifier: MPL-2.0

//! Upscales video files: `cargo run --release --example upscale -- in.mp4 out.mp4`.

mod animation;
mod args;
mod audio;
mod channels;
mod color;
#[path = "../common/console.rs"]
mod console;
mod container_size;
mod decoded;
mod durations;
mod element_options;
mod estimate;
mod explain;
mod first_format;
mod formats;
mod gate;
mod input;
mod interrupts;
mod job;
mod last_duration;
mod length;
mod model;
mod moment;
mod numbered;
mod outcome;
mod output;
mod picture_output;
mod piece;
mod progress;
mod rate;
mod run;
mod screen;
mod side_by_side;
mod sizes;
mod spread;
mod streams;
mod subtitles;
mod tally;
mod target;
mod tasks;
mod timeline;
mod titles;
mod track;
mod video;
mod words;
mod written;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use gstflashvsr::upscaler::Model;
use gstreamer as gst;

use crate::args::Args;
use crate::input::Input;
use crate::interrupts::{Interrupts, Wish};
use crate::job::Job;
use crate::outcome::Outcome;
use crate::output::Output;
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
    let screen = Screen::new(args.json);
    if let Some(notice) = notice {
        screen.note(&notice);
    }
    let count = tasks.tasks.len();
    let mut batch = Batch { args, model, interrupts: Interrupts::listen()?, screen, loaded: None };
    let mut worst = Outcome::Done;
    for (number, task) in (1..).zip(&tasks.tasks) {
        batch.screen.begin(&task.input, &task.output, number, count);
        let (outcome, stuck) = batch.run(task, number < count).unwrap_or_else(|error| {
            let (outcome, error) = (Outcome::Failed, Some(format!("{error:#}")));
            batch.screen.end(&End { outcome, output: None, numbers: None, error });
            (outcome, false)
        });
        worst = worst.max(outcome);
        if stuck {
            // The threads of the pipeline do not end, so that it must not be taken apart.
            std::process::exit(worst.code().into());
        }
        if batch.interrupts.wish() != Wish::GoOn {
            break;
        }
    }
    Ok(worst)
}

/// What the tasks of a command line share.
struct Batch<'a> {
    args: &'a Args,
    /// The directory of the model.
    model: PathBuf,
    interrupts: Interrupts,
    screen: Screen,
    /// The model between two tasks.
    loaded: Option<Arc<dyn Model>>,
}

impl Batch<'_> {
    /// Does one task, and tells whether threads of it are stuck.
    fn run(&mut self, task: &Task, others_follow: bool) -> Result<(Outcome, bool)> {
        let Some(output) = self.begin_output(task)? else { return Ok((Outcome::Interrupted, false)) };
        let input = Input::open(&task.input, self.args.framerate)?;
        let job = Job::new(self.args, &input, &output, &self.model)?;
        let (interrupts, screen) = (&self.interrupts, &mut self.screen);
        let ended = run::run(&job, &task.input, &task.output, interrupts, screen, others_follow);
        self.loaded = ended.model.or(self.loaded.take());
        let counted = ended.result.and_then(|outcome| match ended.whole {
            true => output.frames(job.tally.numbers().frames_out).map(|frames| self.count(&job, frames, outcome)),
            false => Ok(outcome),
        });
        let (result, left) = match counted {
            Ok(Outcome::Interrupted) if !ended.whole => (Ok(Outcome::Interrupted), None),
            Ok(Outcome::Interrupted) => (Ok(Outcome::Interrupted), output.keep()?),
            Ok(outcome) => (output.finish().map(|()| outcome), Some(task.output.clone())),
            Err(error) => (Err(error), None),
        };
        let numbers = result.is_ok().then(|| (job.tally.numbers(), ended.took));
        let left = left.as_deref().filter(|_| result.is_ok());
        let error = result.as_ref().err().map(|error| format!("{error:#}"));
        let outcome = result.unwrap_or(Outcome::Failed);
        self.screen.end(&End { outcome, output: left, numbers, error });
        if ended.stuck {
            // Taking a pipeline apart waits for its threads.
            std::mem::forget((job, input));
        }
        Ok((outcome, ended.stuck))
    }

    /// Takes the number of frames that the output holds, and tells the outcome with regard to it.
    fn count(&self, job: &Job, frames: u64, outcome: Outcome) -> Outcome {
        let passed = job.tally.set_written(frames);
        if frames >= passed {
            return outcome;
        }
        self.screen.say(&format!("warning: of {passed} frames {} are missing in the output", passed - frames));
        outcome.max(Outcome::Incomplete)
    }

    /// Makes the output; none if it is a pipe whose reader does not come before the user wants an end.
    fn begin_output(&self, task: &Task) -> Result<Option<Output>> {
        let mut told = false;
        Output::begin(&task.output, self.args.overwrite, || {
            if !std::mem::replace(&mut told, true) {
                self.screen.note(&format!("\"{}\" is a pipe; waiting for its reader", task.output.display()));
            }
            thread::sleep(Duration::from_millis(100));
            self.interrupts.wish() == Wish::GoOn
        })
    }
}
