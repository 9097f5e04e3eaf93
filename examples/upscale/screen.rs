// SPDX-License-Identifier: MPL-2.0

//! What is shown while jobs run: a bar on a terminal, plain lines elsewhere, or JSON for scripts.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use gstreamer as gst;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::console;
use crate::estimate::Estimate;
use crate::outcome::Outcome;
use crate::progress::{self, Pace};
use crate::tally::Numbers;

/// Time between two lines, plain or of JSON, on the progress.
const LINE_INTERVAL: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(1)];

/// Seconds of a job that is worth an estimate.
const LONG: f64 = 60.0;

/// Where things are shown.
#[derive(Debug)]
pub struct Screen {
    mode: Mode,
}

#[derive(Debug)]
enum Mode {
    /// With the bar that is drawn at the moment, if there is one.
    Terminal(Option<ProgressBar>),
    Lines(Instant),
    Json(Instant),
}

impl Screen {
    /// Shows JSON, or what suits the standard error stream.
    pub fn new(json: bool) -> Self {
        let mode = match json {
            true => Mode::Json(Instant::now()),
            false if std::io::stderr().is_terminal() => Mode::Terminal(None),
            false => Mode::Lines(Instant::now()),
        };
        Self { mode }
    }

    /// A job begins, the first of `of` has the number 1.
    pub fn begin(&mut self, input: &Path, output: &Path, number: usize, of: usize) {
        let event = || {
            json!({
                "event": "start", "input": input.to_string_lossy(), "output": output.to_string_lossy(),
                "number": number, "of": of,
            })
        };
        match &mut self.mode {
            Mode::Json(_) => emit(&event()),
            _ if of > 1 => self.say(&format!("{number}/{of}: {} to {}", input.display(), output.display())),
            _ => {}
        }
    }

    /// The model is being loaded.
    pub fn loading(&mut self, done: u64, total: u64) {
        match &mut self.mode {
            Mode::Terminal(bar) => {
                let bar =
                    bar.get_or_insert_with(|| new_bar(total, "loading the model {bar:30} {bytes}/{total_bytes} {msg}"));
                bar.set_position(done);
            }
            Mode::Lines(_) => {}
            Mode::Json(last) => {
                if done == total || due(last, LINE_INTERVAL[1]) {
                    emit(&json!({ "event": "loading", "done": done, "total": total }));
                }
            }
        }
    }

    /// The model is loaded, or will not be: the bar on it goes.
    pub fn loaded(&mut self) {
        self.clear();
    }

    /// How far the job is; `length` is that of what is to be done.
    pub fn progress(&mut self, numbers: &Numbers, length: Option<gst::ClockTime>, pace: &Pace) {
        match &mut self.mode {
            Mode::Terminal(bar) => {
                let bar = bar.get_or_insert_with(|| new_bar(1000, "{bar:30} {msg}"));
                bar.set_position((1000.0 * progress::fraction(numbers, length).unwrap_or(0.0)) as u64);
                bar.set_message(progress::line(numbers, length, pace));
            }
            Mode::Lines(last) => {
                if due(last, LINE_INTERVAL[0]) {
                    console::err(progress::line(numbers, length, pace));
                }
            }
            Mode::Json(last) => {
                if due(last, LINE_INTERVAL[1]) {
                    emit(&progress::event(numbers, length, pace));
                }
            }
        }
    }

    /// What the job will take: for `frames`, if their number is known, these `seconds`. Short jobs are not worth a word.
    pub fn estimate(&self, estimate: &Estimate, frames: Option<u64>, seconds: f64) {
        match &self.mode {
            Mode::Json(_) => emit(&json!({
                "event": "estimate", "frames": frames, "seconds": seconds, "rough": estimate.least_seconds.is_some(),
                "memory": estimate.memory, "device": estimate.device,
            })),
            _ if seconds >= LONG => self.note(&progress::prospect(estimate, frames, seconds)),
            _ => {}
        }
    }

    /// Shows a sentence.
    pub fn say(&self, text: &str) {
        match &self.mode {
            Mode::Terminal(Some(bar)) => bar.suspend(|| console::err(text)),
            Mode::Terminal(None) | Mode::Lines(_) => console::err(text),
            Mode::Json(_) => {
                let (event, text) = match text.split_once(": ") {
                    Some(("warning", text)) => ("warning", text),
                    Some(("note", text)) => ("note", text),
                    _ => ("note", text),
                };
                emit(&json!({ "event": event, "text": text }));
            }
        }
    }

    /// A sentence that the user ought to read.
    pub fn note(&self, text: &str) {
        self.say(&format!("note: {text}"));
    }

    /// The job has ended.
    pub fn end(&mut self, end: &End<'_>) {
        self.clear();
        if let Some(error) = &end.error {
            console::err(format_args!("error: {error}"));
        }
        if let Mode::Json(_) = self.mode {
            emit(&end.event());
        } else if let Some((numbers, took)) = &end.numbers {
            console::out(progress::summary(numbers, *took));
        }
        if let (Outcome::Interrupted, Mode::Terminal(_) | Mode::Lines(_)) = (end.outcome, &self.mode) {
            console::err(match end.output {
                Some(path) => format!("interrupted; what is done is in \"{}\"", path.display()),
                None => "interrupted; nothing is left".to_owned(),
            });
        }
    }

    fn clear(&mut self) {
        if let Mode::Terminal(bar) = &mut self.mode
            && let Some(bar) = bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

/// The end of a job.
#[derive(Debug)]
pub struct End<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// The file that it left.
    pub output: Option<&'a Path>,
    /// What it did, and the time that it took; none if it did not come to that.
    pub numbers: Option<(Numbers, Duration)>,
    /// What went wrong.
    pub error: Option<String>,
}

impl End<'_> {
    fn event(&self) -> Value {
        let mut event = json!({
            "event": "end",
            "outcome": self.outcome.word(),
            "exit_code": self.outcome.code(),
            "output": self.output.map(Path::to_string_lossy),
            "error": self.error,
        });
        if let (Some((numbers, took)), Value::Object(event)) = (&self.numbers, &mut event) {
            let ((from_w, from_h), (to_w, to_h)) = (numbers.size_in, numbers.size_out);
            event.insert("frames_in".into(), numbers.frames_in.into());
            event.insert("frames_out".into(), numbers.frames_out.into());
            event.insert("size_in".into(), json!([from_w, from_h]));
            event.insert("size_out".into(), json!([to_w, to_h]));
            event.insert("seconds".into(), took.as_secs_f64().into());
        }
        event
    }
}

fn new_bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// Whether it is time for another line.
fn due(last: &mut Instant, interval: Duration) -> bool {
    let due = last.elapsed() >= interval;
    if due {
        *last = Instant::now();
    }
    due
}

fn emit(event: &Value) {
    console::out(event);
}
