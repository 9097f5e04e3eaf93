// SPDX-License-Identifier: MPL-2.0

//! Things of which a process has one for all its elements: weights, pools of threads, devices.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::model::Cancel;

/// Time between two looks at whether somebody who waits is still to wait.
const TICK: Duration = Duration::from_millis(50);

/// Things that live as long as somebody uses them.
pub(super) struct Shared<K, T>(Mutex<HashMap<K, Arc<Slot<T>>>>);

/// Where the thing of one key is.
struct Slot<T> {
    state: Mutex<SlotState<T>>,
    changed: Condvar,
}

enum SlotState<T> {
    /// Made, and alive if somebody uses it.
    Made(Weak<T>),
    /// Somebody is making it.
    Making,
}

/// Ends [`SlotState::Making`] when the maker is done or has failed, by a panic too.
struct Maker<'a, T> {
    slot: &'a Slot<T>,
    made: Weak<T>,
}

impl<T> Drop for Maker<'_, T> {
    fn drop(&mut self) {
        *self.slot.state.lock() = SlotState::Made(std::mem::take(&mut self.made));
        self.slot.changed.notify_all();
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    pub fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// The living one under `key`, or what `make` gives. Who asks for the same key meanwhile waits for it, so that nothing is
    /// made twice; who asks for another does not. What fails is not remembered: the next one tries again.
    ///
    /// # Errors
    /// That of `make`; [`crate::Error::Cancelled`] if `cancel` ends the wait for another's making.
    pub fn get(&self, key: K, cancel: &Cancel, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let slot = self.slot(key);
        {
            let mut state = slot.state.lock();
            loop {
                match &*state {
                    SlotState::Made(thing) => {
                        if let Some(living) = thing.upgrade() {
                            return Ok(living);
                        }
                        break;
                    }
                    SlotState::Making => {
                        cancel.check()?;
                        slot.changed.wait_for(&mut state, TICK);
                    }
                }
            }
            *state = SlotState::Making;
        }
        let mut maker = Maker { slot: &slot, made: Weak::new() };
        let made = Arc::new(make()?);
        maker.made = Arc::downgrade(&made);
        Ok(made)
    }

    /// The slot of a key. Those that nobody uses any more are forgotten.
    fn slot(&self, key: K) -> Arc<Slot<T>> {
        let mut map = self.0.lock();
        map.retain(|_, slot| {
            // Whoever waits or makes holds the slot too.
            Arc::strong_count(slot) > 1
                || matches!(&*slot.state.lock(), SlotState::Made(thing) if thing.strong_count() > 0)
        });
        let empty = || Slot { state: Mutex::new(SlotState::Made(Weak::new())), changed: Condvar::new() };
        map.entry(key).or_insert_with(|| Arc::new(empty())).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    fn get<T>(shared: &Shared<&'static str, T>, key: &'static str, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        shared.get(key, &Cancel::default(), make)
    }

    #[test]
    fn a_thing_is_shared_while_somebody_uses_it() {
        let shared = Shared::new();
        let first = get(&shared, "a", || Ok(1)).unwrap();
        let second = get(&shared, "a", || panic!("made twice")).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert_eq!(*get(&shared, "a", || Ok(2)).unwrap(), 2);
        assert_eq!(shared.0.lock().len(), 1);
        get(&shared, "b", || Ok(3)).unwrap();
        assert_eq!(shared.0.lock().len(), 1, "what nobody uses is forgotten");
    }

    #[test]
    fn two_threads_make_one_thing() {
        let (shared, made, ready) = (Shared::new(), AtomicUsize::new(0), Barrier::new(2));
        let make = || {
            made.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(20));
            Ok(1)
        };
        std::thread::scope(|scope| {
            let ask = || {
                ready.wait();
                get(&shared, "a", make).unwrap()
            };
            let threads = [scope.spawn(ask), scope.spawn(ask)];
            let [first, second] = threads.map(|thread| thread.join().unwrap());
            assert!(Arc::ptr_eq(&first, &second));
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn another_key_does_not_wait() {
        let shared = Shared::new();
        let outer = get(&shared, "slow", || {
            // Would hang if keys shared a lock.
            let inner = std::thread::scope(|scope| scope.spawn(|| get(&shared, "quick", || Ok(1))).join().unwrap())?;
            Ok(*inner + 1)
        });
        assert_eq!(*outer.unwrap(), 2);
    }

    #[test]
    fn a_failure_is_not_remembered() {
        let shared: Shared<_, i32> = Shared::new();
        assert!(get(&shared, "a", || Err(Error::Cancelled)).is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| get(&shared, "a", || panic!("oh"))));
        assert!(panicked.is_err());
        assert_eq!(*get(&shared, "a", || Ok(1)).unwrap(), 1);
    }

    #[test]
    fn a_wait_can_be_ended() {
        let shared = Shared::new();
        let (begun, ended) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                get(&shared, "a", || {
                    begun.wait();
                    ended.wait();
                    Ok(1)
                })
            });
            begun.wait();
            let cancel = Cancel::default();
            cancel.cancel();
            let waited = shared.get("a", &cancel, || panic!("made twice"));
            assert!(matches!(waited, Err(Error::Cancelled)));
            ended.wait();
        });
    }
}
