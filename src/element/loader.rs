// SPDX-License-Identifier: MPL-2.0

//! Loads a model on a thread of its own, so that the state change that starts it returns at once and another one can end it.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::errors::Failure;
use crate::error::Error;
use crate::upscaler::{Cancel, Loading, Model, Opening, Progress};

/// Time between two looks at whether the one who waits is still to wait.
const TICK: Duration = Duration::from_millis(20);

/// A model that is being loaded, or is loaded. Dropping it ends the loading and waits for that.
pub struct Loader {
    shared: Arc<Shared>,
    cancel: Cancel,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    outcome: Mutex<Option<Outcome>>,
    changed: Condvar,
}

enum Outcome {
    Loaded(Arc<dyn Model>),
    /// The error has been handed to whoever asked for the loading.
    Failed,
}

impl Loader {
    /// Begins to load. `progress` is told how far it is; `end` how it ended, unless it was cancelled.
    ///
    /// # Errors
    /// [`Error::Compute`] if no thread can be started.
    pub fn start(
        opening: Opening,
        progress: impl Fn(Progress) + Send + Sync + 'static,
        end: impl FnOnce(Result<&Arc<dyn Model>, Error>) + Send + 'static,
    ) -> Result<Self, Error> {
        let (shared, cancel) = (Arc::<Shared>::default(), Cancel::default());
        let (theirs, loading) = (shared.clone(), Loading::new(cancel.clone(), progress));
        let work = move || {
            let outcome = match opening.load(&loading) {
                Ok(model) => {
                    end(Ok(&model));
                    Outcome::Loaded(model)
                }
                Err(Error::Cancelled) => Outcome::Failed,
                Err(error) => {
                    end(Err(error));
                    Outcome::Failed
                }
            };
            *theirs.outcome.lock() = Some(outcome);
            theirs.changed.notify_all();
        };
        let thread = std::thread::Builder::new()
            .name("flashvsr-load".into())
            .spawn(work)
            .map_err(|error| Error::Compute(format!("no thread to load the model: {error}")))?;
        Ok(Self { shared, cancel, thread: Some(thread) })
    }

    /// Waits for the model.
    ///
    /// # Errors
    /// [`Failure::Flow`] if it could not be loaded, which the start's `end` has been told; [`Error::Cancelled`] if `cancel`
    /// ends the wait. The loading goes on then.
    pub fn wait(&self, cancel: &Cancel) -> Result<Arc<dyn Model>, Failure> {
        let mut outcome = self.shared.outcome.lock();
        loop {
            match &*outcome {
                Some(Outcome::Loaded(model)) => return Ok(model.clone()),
                Some(Outcome::Failed) => return Err(Failure::Flow(gst::FlowError::Error)),
                None if self.thread.as_ref().is_none_or(JoinHandle::is_finished) => {
                    // The loading has panicked.
                    return Err(Error::Compute("the model's loader has ended without a result".into()).into());
                }
                None => {
                    cancel.check()?;
                    self.shared.changed.wait_for(&mut outcome, TICK);
                }
            }
        }
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.cancel.cancel();
        // Whoever drops an element that is not in NULL may leave the last reference to the loading thread itself.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // What a panic had to say was said when it came.
            let _ = thread.join();
        }
    }
}
