// SPDX-License-Identifier: MPL-2.0

//! Following the loading of weights, and ending it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Cancel;
use crate::error::Result;

/// How often [`Loading`] reports from beginning to end, at most.
const REPORTS: u64 = 100;

/// How far a model is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights that have been read.
    pub done: u64,
    /// Bytes of weights in all.
    pub total: u64,
}

/// Follows the loading of a model, and ends it on request. The default one does neither.
#[derive(Clone, Default)]
pub struct Loading(Arc<Inner>);

#[derive(Default)]
struct Inner {
    cancel: Cancel,
    report: Option<Box<dyn Fn(Progress) + Send + Sync>>,
    done: AtomicU64,
    total: AtomicU64,
    /// The last progress that was reported, in parts of [`REPORTS`].
    reported: Mutex<u64>,
}

impl Loading {
    /// A loading that ends with [`crate::Error::Cancelled`] soon after `cancel` says so, and that calls `report` now and
    /// then, from any thread, with growing numbers.
    pub fn new(cancel: Cancel, report: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { cancel, report: Some(Box::new(report)), ..Inner::default() }))
    }

    /// Whether it is to end.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.0.cancel
    }

    /// Says how many bytes there are to read.
    pub(super) fn start(&self, total: u64) {
        self.0.total.store(total, Ordering::Relaxed);
        self.report(0);
    }

    /// Counts bytes that are about to be read.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`] if the loading is to end.
    pub(super) fn advance(&self, bytes: u64) -> Result<()> {
        self.0.cancel.check()?;
        let before = self.0.done.fetch_add(bytes, Ordering::Relaxed);
        let total = self.0.total.load(Ordering::Relaxed).max(1);
        let part = |bytes: u64| bytes.saturating_mul(REPORTS) / total;
        if part(before) != part(before + bytes) {
            self.report(before + bytes);
        }
        Ok(())
    }

    /// Says that everything is loaded.
    pub(super) fn finish(&self) {
        self.report(self.0.total.load(Ordering::Relaxed));
    }

    fn report(&self, done: u64) {
        let Some(report) = &self.0.report else { return };
        let total = self.0.total.load(Ordering::Relaxed);
        let done = done.min(total);
        // Held while reporting, so that reports of several threads come in order.
        let mut reported = self.0.reported.lock();
        let part = done.saturating_mul(REPORTS) / total.max(1);
        if done == 0 || part > *reported {
            *reported = part;
            report(Progress { done, total });
        }
    }
}

impl fmt::Debug for Loading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loading").field("done", &self.0.done).field("total", &self.0.total).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn reports_are_few_and_grow_from_nothing_to_all() {
        let seen: Arc<Mutex<Vec<Progress>>> = Arc::default();
        let sink = seen.clone();
        let loading = Loading::new(Cancel::default(), move |progress| sink.lock().push(progress));
        loading.start(100_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2500).for_each(|_| loading.advance(10).unwrap()));
            }
        });
        loading.finish();
        let seen = seen.lock();
        assert!(seen.len() <= REPORTS as usize + 1, "{} reports", seen.len());
        assert!(seen.windows(2).all(|pair| pair[0].done < pair[1].done), "{seen:?}");
        assert_eq!(seen.first(), Some(&Progress { done: 0, total: 100_000 }));
        assert_eq!(seen.last(), Some(&Progress { done: 100_000, total: 100_000 }));
    }

    #[test]
    fn a_cancelled_loading_ends() {
        let cancel = Cancel::default();
        let loading = Loading::new(cancel.clone(), |_| {});
        loading.start(10);
        loading.advance(1).unwrap();
        cancel.cancel();
        assert!(matches!(loading.advance(1), Err(Error::Cancelled)));
    }
}
