// SPDX-License-Identifier: MPL-2.0

//! Work that is given up when nothing moves any more.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

/// By which the work says that it moves.
#[derive(Debug, Clone)]
pub struct Pulse(Sender<()>);

impl Pulse {
    /// Starts the waiting time anew.
    pub fn beat(&self) {
        // Nobody listens once the work has been given up.
        let _ = self.0.send(());
    }
}

/// Runs `work` in a thread of its own, which is left behind if it does not move for `limit`.
///
/// # Errors
/// Those of the work, or that it has been given up.
pub fn watch<T: Send + 'static>(limit: Duration, work: impl FnOnce(Pulse) -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, pulses) = mpsc::channel();
    let worker = thread::spawn(move || work(Pulse(sender)));
    loop {
        match pulses.recv_timeout(limit) {
            Ok(()) => {}
            // The work has dropped its pulse: it is done.
            Err(RecvTimeoutError::Disconnected) => {
                return worker.join().unwrap_or_else(|_| Err(anyhow!("the download crashed")));
            }
            Err(RecvTimeoutError::Timeout) => {
                bail!(
                    "nothing has arrived for {} seconds; run the same command again to go on from here",
                    limit.as_secs()
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_ends_gives_its_result() {
        assert_eq!(watch(Duration::from_secs(60), |_| Ok(7)).unwrap(), 7);
        let failed: Result<()> = watch(Duration::from_secs(60), |_| bail!("no"));
        assert_eq!(failed.unwrap_err().to_string(), "no");
    }

    #[test]
    fn work_that_stands_still_is_given_up() {
        let stuck: Result<()> = watch(Duration::from_millis(20), |pulse| {
            pulse.beat();
            loop {
                thread::park();
            }
        });
        assert!(stuck.unwrap_err().to_string().contains("run the same command again"));
    }
}
