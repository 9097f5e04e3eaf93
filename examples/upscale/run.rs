// SPDX-License-Identifier: MPL-2.0

//! Runs a job to its end, to its early end, or to its error.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_pbutils as gst_pbutils;

use crate::job::Job;
use crate::progress::{Progress, summary};

/// Exit code of an interrupted job, as shells have it for SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Time between two looks at the progress.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(200);

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// At the end of the input.
    Done,
    /// Early, on request; the output is complete up to there.
    Interrupted,
}

/// Runs `job` and prints a summary.
pub fn run(job: &Job) -> Result<Outcome> {
    let interrupted = stop_on_ctrl_c(job)?;
    let mut progress = Progress::new();
    let result = play(job, &mut progress, interrupted);
    // On the way down the streaming threads end; whatever they still have to say comes too late.
    let down = job.pipeline.set_state(gst::State::Null);
    for note in job.tally.take_notes() {
        progress.say(&format!("note: {note}"));
    }
    let took = progress.finish();
    result?;
    down.context("the output could not be closed")?;
    let numbers = job.tally.numbers();
    println!("{}", summary(&numbers, took));
    if interrupted.load(Ordering::Acquire) {
        return Ok(Outcome::Interrupted);
    }
    if numbers.frames_out == 0 {
        return Err(anyhow!("the input has no frames"));
    }
    Ok(Outcome::Done)
}

/// The first Ctrl-C asks the job to end; the second ends the process.
fn stop_on_ctrl_c(job: &Job) -> Result<&'static AtomicBool> {
    static INTERRUPT: AtomicBool = AtomicBool::new(false);
    let tally = job.tally.clone();
    ctrlc::set_handler(move || {
        if INTERRUPT.swap(true, Ordering::AcqRel) {
            std::process::exit(INTERRUPTED.into());
        }
        tally.note("finishing the frames that are under way; once more to abort");
        tally.stop();
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(&INTERRUPT)
}

fn play(job: &Job, progress: &mut Progress, interrupted: &AtomicBool) -> Result<()> {
    let bus = job.pipeline.bus().context("a pipeline without a bus")?;
    let started = job.pipeline.set_state(gst::State::Playing);
    let mut missing = Vec::new();
    let mut duration = None;
    loop {
        let message = match &started {
            Ok(_) => bus.timed_pop(TICK),
            // What went wrong has been posted already.
            Err(error) => Some(bus.pop().with_context(|| error.to_string())?),
        };
        for note in job.tally.take_notes() {
            progress.say(&format!("note: {note}"));
        }
        match message.as_ref().map(|message| message.view()) {
            Some(gst::MessageView::Eos(_)) => return Ok(()),
            Some(gst::MessageView::Error(error)) => return Err(explain(error, &missing)),
            Some(gst::MessageView::Warning(warning)) => {
                progress.say(&format!("warning: {}", warning.error().message()));
            }
            Some(gst::MessageView::Element(_)) => {
                let plugin =
                    message.as_ref().and_then(|message| gst_pbutils::MissingPluginMessage::parse(message).ok());
                missing.extend(plugin.map(|plugin| plugin.description().to_string()));
            }
            Some(_) => {}
            None => {
                duration = duration.or_else(|| job.pipeline.query_duration::<gst::ClockTime>());
                if !interrupted.load(Ordering::Acquire) {
                    progress.update(&job.tally.numbers(), duration);
                }
            }
        }
    }
}

/// The sentence of an error message, with the cure where we know it.
fn explain(error: &gst::message::Error, missing: &[String]) -> anyhow::Error {
    if !missing.is_empty() {
        return anyhow!(
            "GStreamer lacks: {}; install it with: sudo apt-get install gstreamer1.0-libav gstreamer1.0-plugins-good \
             gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly",
            missing.join(", ")
        );
    }
    let message = error.error().message().to_owned();
    // A general message says what happened in its debug text alone.
    match error.debug() {
        Some(debug) if message.starts_with("Internal data") || message.starts_with("GStreamer encountered") => {
            anyhow!("{message} ({debug})")
        }
        _ => anyhow!(message),
    }
}
