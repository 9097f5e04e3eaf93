// SPDX-License-Identifier: MPL-2.0

//! Runs a job to its end, to its early end, or to its error.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use gst::prelude::*;
use gstflashvsr::upscaler::Model;
use gstreamer as gst;

use crate::explain::{Missing, explain};
use crate::interrupts::{Interrupts, Wish};
use crate::job::Job;
use crate::model;
use crate::outcome::Outcome;
use crate::progress::{self, Pace};
use crate::screen::Screen;
use crate::tally::Numbers;

/// Time between two looks at the job.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(200);
/// Time without a frame of the input after which the user is told.
const SILENCE: Duration = Duration::from_secs(30);
/// Time in which an input that is to end may come with the frame behind which it ends.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time after which a pipeline that is to end, and does nothing, is given up.
const GIVE_UP: Duration = Duration::from_secs(10);

/// How a run ended.
pub struct Ended {
    /// The outcome, or what went wrong.
    pub result: Result<Outcome>,
    /// Whether the output was written to an end of its own, so that it plays.
    pub whole: bool,
    /// Whether the pipeline still has threads, which do not end; no other job can follow.
    pub stuck: bool,
    /// The time that it took.
    pub took: Duration,
    /// The model, if it is to be held for another job.
    pub model: Option<Arc<dyn Model>>,
}

/// What ended the playing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The end of the input, which has come through to the output.
    Input,
    /// The same, on request and earlier.
    Early,
    /// The user, who did not want to wait for that, or the time in which it ought to have come.
    GivenUp,
}

/// Runs `job`, which reads `input` and writes `output`. With `hold` its model is not unloaded.
pub fn run(job: &Job, input: &Path, output: &Path, interrupts: &Interrupts, screen: &mut Screen, hold: bool) -> Ended {
    let mut run = Run::new(job, input, output, interrupts, screen);
    let played = run.play();
    run.screen.loaded();
    // On the way down the streaming threads end; whatever they still have to say comes too late.
    let loaded = job.tally.numbers().frames_upscaled > 0;
    let model = if hold && loaded { model::hold(&job.upscaler) } else { None };
    let given_up = matches!(played, Ok(End::GivenUp));
    let fault = run.fault.take();
    let down = if given_up { None } else { shut_down(&job.pipeline) };
    run.say_notes();
    let took = run.pace.elapsed();
    let any = job.tally.numbers().frames_out > 0;
    let stuck = down.is_none();
    let result = match (played, down) {
        (Err(error), _) | (Ok(_), Some(Err(error))) => Err(error),
        (Ok(End::Input), _) if !any => Err(fault.unwrap_or_else(|| no_frames(job, input))),
        (Ok(End::Input), _) => Ok(match job.length.shortfall(job.piece.is_all()) {
            Some(shortfall) => {
                run.screen.say(&format!("warning: \"{}\" is incomplete: {shortfall}", input.display()));
                Outcome::Incomplete
            }
            None => Outcome::Done,
        }),
        (Ok(End::Early | End::GivenUp), _) => match fault.filter(|_| interrupts.wish() == Wish::GoOn) {
            Some(fault) => Err(fault),
            None => Ok(Outcome::Interrupted),
        },
    };
    let whole = any && result.is_ok() && !given_up;
    Ended { result, whole, stuck, took, model }
}

/// What to say of an input without a frame, or of a piece without one.
fn no_frames(job: &Job, input: &Path) -> anyhow::Error {
    let input = input.display();
    if job.piece.is_all() {
        return anyhow!("\"{input}\" has no frames");
    }
    let at = progress::clock(job.piece.start.seconds());
    anyhow!("\"{input}\" has no frames in the piece that begins at {at}; see --start and --duration")
}

struct Run<'a> {
    job: &'a Job,
    input: &'a Path,
    output: &'a Path,
    interrupts: &'a Interrupts,
    screen: &'a mut Screen,
    /// What GStreamer lacks for this input.
    missing: Vec<Missing>,
    pace: Pace,
    /// The numbers when they changed last.
    moved: (Instant, [u64; 3]),
    told_silence: bool,
    told_estimate: bool,
    /// Whether the model is being loaded.
    loading: bool,
    ending: Option<Ending>,
    /// An error of the input, behind which what has come is finished.
    fault: Option<anyhow::Error>,
}

/// An early end that is under way.
struct Ending {
    since: Instant,
    /// Whether the user wants it, and not an input that cannot be read any further.
    asked: bool,
    /// What has been ended for an input that did not come with another frame: 1 for its streams, 2 for the decoded video.
    forced: u8,
}

impl<'a> Run<'a> {
    fn new(
        job: &'a Job,
        input: &'a Path,
        output: &'a Path,
        interrupts: &'a Interrupts,
        screen: &'a mut Screen,
    ) -> Self {
        let now = Instant::now();
        Self {
            job,
            input,
            output,
            interrupts,
            screen,
            missing: Vec::new(),
            pace: Pace::new(now),
            moved: (now, [0; 3]),
            told_silence: false,
            told_estimate: false,
            loading: false,
            ending: None,
            fault: None,
        }
    }

    fn play(&mut self) -> Result<End> {
        let bus = self.job.pipeline.bus().context("a pipeline without a bus")?;
        let mut starting = Some(start(self.job));
        let mut length = None;
        loop {
            let message = bus.timed_pop(TICK);
            self.say_notes();
            if let Some(message) = message {
                if let Some(end) = self.take(&message)? {
                    return Ok(end);
                }
                continue;
            }
            match starting.as_ref().map(Receiver::try_recv) {
                Some(Ok(Ok(()))) => starting = None,
                // What went wrong has been posted before.
                Some(Ok(Err(error))) if !bus.have_pending() => return Err(error),
                _ => {}
            }
            let whole = || self.job.pipeline.query_duration::<gst::ClockTime>();
            length = length.or_else(|| whole().map(|whole| self.job.piece.length(whole)));
            let numbers = self.job.tally.numbers();
            self.pace.observe(&numbers, Instant::now());
            if let Some(end) = self.attend(&numbers, starting.is_some()) {
                return Ok(end);
            }
            if starting.is_none() && !self.loading && self.ending.is_none() {
                self.tell_estimate(&numbers, length);
                self.screen.progress(&numbers, length, &self.pace);
            }
        }
    }

    /// Takes a message of the pipeline.
    fn take(&mut self, message: &gst::Message) -> Result<Option<End>> {
        match message.view() {
            gst::MessageView::Eos(_) => {
                let asked = self.ending.as_ref().is_some_and(|ending| ending.asked);
                return Ok(Some(if asked { End::Early } else { End::Input }));
            }
            gst::MessageView::Error(error) => {
                let explained = explain(error, &self.missing, self.input, self.output);
                if !self.job.can_end_well(error) {
                    return Err(explained);
                }
                // What has been computed is worth more than nothing.
                self.job.length.broke_off(error.error().message());
                self.fault.get_or_insert(explained);
                self.job.go_on();
                self.ending.get_or_insert(Ending { since: Instant::now(), asked: false, forced: 0 });
            }
            gst::MessageView::Warning(warning) => {
                self.screen.say(&format!("warning: {}", warning.error().message()));
            }
            gst::MessageView::Element(element) => {
                self.missing.extend(Missing::of(message));
                let loading = element.structure().filter(|structure| structure.name() == "flashvsr-loading");
                let count = |name| loading.and_then(|structure| structure.get::<u64>(name).ok());
                if let Some((done, total)) = count("done").zip(count("total")) {
                    self.loading = done < total;
                    self.screen.loading(done, total);
                }
            }
            _ => {}
        }
        Ok(None)
    }

    /// Looks after a job that does not move, and after one that is to end.
    fn attend(&mut self, numbers: &Numbers, starting: bool) -> Option<End> {
        let now = Instant::now();
        let counts = [numbers.frames_in, numbers.frames_upscaled, numbers.frames_out];
        if counts != self.moved.1 {
            self.moved = (now, counts);
            self.told_silence = false;
        }
        let still = now - self.moved.0;
        match (self.interrupts.wish(), &mut self.ending) {
            (Wish::Abort, _) => return Some(End::GivenUp),
            (Wish::End, None) => {
                // Nothing is lost before the first frame.
                if starting || self.loading || numbers.frames_in == 0 {
                    return Some(End::GivenUp);
                }
                self.ending = Some(Ending { since: now, asked: true, forced: 0 });
                self.job.tally.stop();
                self.screen.note("finishing the frames that are under way; once more to abort");
            }
            (Wish::GoOn, None) => {
                if still >= SILENCE && !self.told_silence && !starting && self.job.waits_for_input() {
                    self.told_silence = true;
                    self.screen.note(&format!(
                        "no frame has come from \"{}\" for {} seconds; still waiting, Ctrl-C ends it",
                        self.input.display(),
                        SILENCE.as_secs()
                    ));
                }
            }
            (_, Some(ending)) => {
                let still = still.min(now - ending.since);
                if ending.forced < 2 && still >= PATIENCE && self.job.waits_for_input() {
                    *ending = Ending { since: now, forced: ending.forced + 1, ..*ending };
                    match ending.forced {
                        1 => self.job.end_streams(),
                        _ => self.job.end_decoded(),
                    }
                } else if still >= GIVE_UP && !self.job.computes() {
                    self.screen.note("the end does not come through; giving up");
                    return Some(End::GivenUp);
                }
            }
        }
        None
    }

    /// Tells once what the run will take, as soon as that is known.
    fn tell_estimate(&mut self, numbers: &Numbers, length: Option<gst::ClockTime>) {
        let (Some(estimate), false) = (self.job.estimate.get(), self.told_estimate) else { return };
        let frames = progress::total(numbers, length);
        let seconds = match estimate.least_seconds {
            Some(least) => frames.map(|frames| least * frames as f64),
            // On a GPU the pace is soon known.
            None => length.and_then(|length| self.pace.settled_seconds_left(numbers, length)),
        };
        if let Some(seconds) = seconds {
            self.told_estimate = true;
            self.screen.estimate(estimate, frames, seconds);
        }
    }

    fn say_notes(&self) {
        for note in self.job.tally.take_notes() {
            self.screen.note(&note);
        }
    }
}

/// Sets the job going, in a thread of its own: the model is loaded meanwhile, and files are opened.
fn start(job: &Job) -> Receiver<Result<()>> {
    let (sender, started) = mpsc::channel();
    let start = job.starter();
    thread::spawn(move || {
        // Nobody listens any more after an error.
        let _ = sender.send(start().context("the pipeline does not start"));
    });
    started
}

/// Stops the pipeline; none if threads of it do not end.
fn shut_down(pipeline: &gst::Pipeline) -> Option<Result<()>> {
    let (sender, down) = mpsc::channel();
    let pipeline = pipeline.clone();
    thread::spawn(move || {
        let result = pipeline.set_state(gst::State::Null);
        let _ = sender.send(result.map(drop).context("the output could not be closed"));
    });
    down.recv_timeout(GIVE_UP).ok()
}
