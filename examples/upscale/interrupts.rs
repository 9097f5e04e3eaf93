// SPDX-License-Identifier: MPL-2.0

//! Ctrl-C and its kin: the first asks for an early but proper end, a later one for an end at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::outcome::Outcome;

/// Time within which signals are one request: `timeout` and shells send theirs twice, to the process and to its group.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// What the user wants of a running job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// To go on.
    GoOn,
    /// To end with what there is.
    End,
    /// To end at once, without it.
    Abort,
}

/// The signals that have come.
#[derive(Debug, Clone)]
pub struct Interrupts(Arc<AtomicU8>);

impl Interrupts {
    /// Listens from now on. A signal that is ignored already, as `nohup` does it, stays ignored.
    ///
    /// # Errors
    /// If signals cannot be caught.
    pub fn listen() -> Result<Self> {
        let ignored = ignored_signals(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
        let mut signals = Signals::new(heard).context("Ctrl-C cannot be caught")?;
        let wish = Arc::new(AtomicU8::new(0));
        let interrupts = Self(wish.clone());
        thread::spawn(move || {
            let mut requests = Requests::default();
            for signal in signals.forever() {
                let requests = requests.add(signal, Instant::now());
                wish.store(requests, Ordering::Release);
                if requests > 2 {
                    // Not even the abort has come through.
                    std::process::exit(Outcome::Interrupted.code().into());
                }
            }
        });
        Ok(interrupts)
    }

    /// What the user wants now.
    pub fn wish(&self) -> Wish {
        match self.0.load(Ordering::Acquire) {
            0 => Wish::GoOn,
            1 => Wish::End,
            _ => Wish::Abort,
        }
    }
}

/// Counts the requests that signals stand for.
#[derive(Debug, Default)]
struct Requests {
    count: u8,
    last: Option<Instant>,
}

impl Requests {
    /// The number of requests together with this signal.
    fn add(&mut self, signal: i32, now: Instant) -> u8 {
        let repeated = self.last.is_some_and(|last| now.duration_since(last) < ONE_REQUEST);
        // A terminal that closes sends several, and nobody sits before it who might want to abort.
        let again = self.count > 0 && signal == SIGHUP;
        if !repeated && !again {
            self.count = self.count.saturating_add(1);
            self.last = Some(now);
        }
        self.count
    }
}

/// The mask of the signals that a process ignores, from its page in `/proc`; 0 where there is none.
fn ignored_signals(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_come_together_are_one_request() {
        let (mut requests, start) = (Requests::default(), Instant::now());
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(requests.add(SIGTERM, after(0)), 1);
        assert_eq!(requests.add(SIGTERM, after(2)), 1);
        assert_eq!(requests.add(SIGINT, after(1500)), 2);
    }

    #[test]
    fn a_terminal_that_closes_never_aborts() {
        let (mut requests, start) = (Requests::default(), Instant::now());
        for second in 0..5 {
            assert_eq!(requests.add(SIGHUP, start + Duration::from_secs(2 * second)), 1);
        }
        assert_eq!(requests.add(SIGINT, start + Duration::from_secs(20)), 2);
    }

    #[test]
    fn ignored_signals_are_read_off_the_process() {
        assert_eq!(ignored_signals("SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored_signals(""), 0);
    }
}
