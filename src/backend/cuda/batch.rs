// SPDX-License-Identifier: MPL-2.0

//! Batches of launches. A stream repeats its work, so a batch whose shape (the sequence of kernels and grids) comes again becomes a
//! graph, which the driver launches in one call, and of which only those nodes are updated whose arguments have changed.
//!
//! This is bookkeeping and knows no driver: a [`LaunchSink`] is one, or counts.

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::ptr;

use super::driver::{Args, Kernel};
use crate::error::Result;

/// Launches of a batch at most. The device works on one batch while the next one is gathered, so it starts late by the time that
/// gathering this many launches takes, well below a millisecond, and not by that of a whole window.
pub const MAX_BATCH: usize = 128;

/// Launches below which a batch is launched one by one: updating and launching a graph takes some calls to the driver as well.
/// The launches that bring a frame in or out are fewer.
pub const MIN_GRAPH: usize = 16;

/// Graphs of one shape. Buffers that live across windows, such as pictures, rotate through a few addresses, and so do the arguments
/// that refer to them. Keeping one instantiated graph for each rotation leaves few nodes to update. There are two rotations at
/// 1408x768 and eight at 3840x2160 (`benches/gpu --dry` counts the updates).
pub const GRAPHS_PER_SHAPE: usize = 8;

/// A cached graph is reused if at most one in so many of its nodes needs new arguments. Keys and values move in each window: that is
/// one node in five.
const MAX_CHANGED_RATIO: usize = 3;

/// Batches in the cache: several times those of a steady window, so that a first or a last window, whose shapes come once, does not
/// evict them.
pub const CACHED_BATCHES: usize = 128;

/// A word of the memory for arguments. Padding between the fields of a struct is not initialised.
type Word = MaybeUninit<u64>;

/// A launch of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Launch<F> {
    /// The kernel as the sink knows it.
    pub function: F,
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// The type of the arguments.
    args: TypeId,
    /// Their first word in the batch's memory, and their length.
    start: usize,
    words: usize,
    /// Compares two of them.
    same: fn(&[Word], &[Word]) -> bool,
}

impl<F: PartialEq> Launch<F> {
    /// Whether the two differ in nothing but the values of their arguments.
    fn is_like(&self, other: &Self) -> bool {
        self.function == other.function
            && self.grid == other.grid
            && self.args == other.args
            && self.start == other.start
            && (self.kernel.threads, self.kernel.shared) == (other.kernel.threads, other.kernel.shared)
    }
}

/// The arguments of one launch, as a kernel takes them.
#[derive(Clone, Copy)]
pub struct Arguments<'a>(&'a [Word]);

impl Arguments<'_> {
    /// Their address.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// A copy of them.
    pub fn to_words(&self) -> Vec<MaybeUninit<u64>> {
        self.0.to_vec()
    }
}

/// Launches in their order, with their arguments.
#[derive(Debug, Clone)]
pub struct Batch<F> {
    launches: Vec<Launch<F>>,
    args: Vec<Word>,
}

impl<F> Default for Batch<F> {
    fn default() -> Self {
        Self { launches: Vec::new(), args: Vec::new() }
    }
}

/// Whether the same `A` was written to both.
fn same<A: Args>(a: &[Word], b: &[Word]) -> bool {
    // SAFETY: this is called with what `Batch::push` wrote for an `A`, aligned as `A` asks for.
    let (a, b) = unsafe { (&*a.as_ptr().cast::<A>(), &*b.as_ptr().cast::<A>()) };
    a == b
}

impl<F: Copy + PartialEq> Batch<F> {
    /// Adds a launch.
    fn push<A: Args>(&mut self, function: F, kernel: &Kernel, grid: [u32; 3], args: &A) {
        const { assert!(align_of::<A>() <= align_of::<Word>(), "arguments are of words") };
        let (start, words) = (self.args.len(), size_of::<A>().div_ceil(size_of::<Word>()));
        self.args.resize(start + words, Word::uninit());
        // SAFETY: the words are long enough, and aligned as `A` asks for.
        unsafe { ptr::from_mut(&mut self.args[start..]).cast::<A>().write(*args) };
        let (kernel, args) = (*kernel, TypeId::of::<A>());
        self.launches.push(Launch { function, kernel, grid, args, start, words, same: same::<A> });
    }

    /// The number of launches.
    pub fn len(&self) -> usize {
        self.launches.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.launches.is_empty()
    }

    /// The launches in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&Launch<F>, Arguments<'_>)> {
        self.launches.iter().map(|launch| (launch, Arguments(self.args_of(launch))))
    }

    fn args_of(&self, launch: &Launch<F>) -> &[Word] {
        &self.args[launch.start..launch.start + launch.words]
    }

    /// Removes the launches, but keeps the memory.
    fn clear(&mut self) {
        self.launches.clear();
        self.args.clear();
    }

    /// Whether the two differ in nothing but the values of arguments.
    fn is_like(&self, other: &Self) -> bool {
        (self.len(), self.args.len()) == (other.len(), other.args.len())
            && self.launches.iter().zip(&other.launches).all(|(a, b)| a.is_like(b))
    }

    /// The number of each launch whose arguments are not those of `other`, which is like this one.
    fn changes<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let pairs = self.launches.iter().zip(&other.launches).enumerate();
        pairs.filter(|(_, (a, b))| !(a.same)(self.args_of(a), other.args_of(b))).map(|(number, _)| number)
    }
}

/// What launches go to.
pub trait LaunchSink {
    /// A kernel as it knows it.
    type Function: Copy + PartialEq;
    /// An instantiated graph.
    type Graph;

    /// Launches one kernel.
    fn launch(&self, launch: &Launch<Self::Function>, args: Arguments<'_>) -> Result<()>;

    /// Instantiates a graph in which each node waits for the one before; `None` if it has no graphs.
    fn build(&self, batch: &Batch<Self::Function>) -> Result<Option<Self::Graph>>;

    /// Updates node `number` of a graph; false if it does not do that.
    fn set(
        &self,
        graph: &mut Self::Graph,
        number: usize,
        launch: &Launch<Self::Function>,
        args: Arguments<'_>,
    ) -> Result<bool>;

    /// Launches a graph.
    fn run(&self, graph: &Self::Graph) -> Result<()>;
}

/// A batch that has been flushed, and its graph if the shape has come twice.
struct CachedBatch<T: LaunchSink> {
    batch: Batch<T::Function>,
    graph: Option<T::Graph>,
}

impl<T: LaunchSink> CachedBatch<T> {
    /// Brings batch and graph to the arguments of `batch`, which has the same shape if there is a graph; false if `to` has no graphs.
    fn prepare(&mut self, batch: &Batch<T::Function>, to: &T) -> Result<bool> {
        match &mut self.graph {
            None => self.graph = to.build(batch)?,
            Some(graph) => {
                for number in self.batch.changes(batch) {
                    let launch = &batch.launches[number];
                    if !to.set(graph, number, launch, Arguments(batch.args_of(launch)))? {
                        return Ok(false);
                    }
                }
            }
        }
        self.batch.clone_from(batch);
        Ok(self.graph.is_some())
    }
}

/// Gathers launches into batches and caches their graphs.
pub struct LaunchBatcher<T: LaunchSink> {
    batch: Batch<T::Function>,
    /// The most recently used one is the last.
    cached: Vec<CachedBatch<T>>,
    /// Whether launches are gathered at all.
    batching: bool,
}

impl<T: LaunchSink> LaunchBatcher<T> {
    /// A batcher that gathers launches, or one that flushes each at once.
    pub fn new(batching: bool) -> Self {
        Self { batch: Batch::default(), cached: Vec::new(), batching }
    }

    /// Adds a launch, and flushes a batch that is full.
    ///
    /// # Errors
    /// What `to` says of this launch and of those before it.
    pub fn launch<A: Args>(
        &mut self,
        to: &T,
        function: T::Function,
        kernel: &Kernel,
        grid: [u32; 3],
        args: &A,
    ) -> Result<()> {
        self.batch.push(function, kernel, grid, args);
        if self.batching && self.batch.len() < MAX_BATCH { Ok(()) } else { self.flush(to) }
    }

    /// Launches the batch. After an error, the rest of it is lost.
    ///
    /// # Errors
    /// What `to` says.
    pub fn flush(&mut self, to: &T) -> Result<()> {
        let outcome = self.submit(to);
        self.batch.clear();
        outcome
    }

    fn submit(&mut self, to: &T) -> Result<()> {
        if self.batching && self.batch.len() >= MIN_GRAPH && self.find_graph(to)? {
            let graph = self.cached.last().and_then(|known| known.graph.as_ref());
            return graph.map_or(Ok(()), |graph| to.run(graph));
        }
        self.batch.iter().try_for_each(|(launch, args)| to.launch(launch, args))
    }

    /// Finds, updates or builds a graph for the batch and makes it the last one in the cache; false if the batch is to be launched
    /// kernel by kernel.
    fn find_graph(&mut self, to: &T) -> Result<bool> {
        let is_like = |known: &CachedBatch<T>| known.batch.is_like(&self.batch);
        let alike: Vec<usize> = (0..self.cached.len()).filter(|i| is_like(&self.cached[*i])).collect();
        let Some(&oldest) = alike.first() else {
            self.remember(CachedBatch { batch: self.batch.clone(), graph: None });
            return Ok(false);
        };
        let near = self.batch.len() / MAX_CHANGED_RATIO;
        let changes = |i: &usize| self.cached[*i].batch.changes(&self.batch).take(near + 1).count();
        let closest = alike.iter().map(|i| (changes(i), *i)).min();
        // Taken out of the cache: after an error its graph may have arguments of both batches.
        let mut known = match closest {
            Some((changes, found)) if changes <= near => self.cached.remove(found),
            _ if alike.len() < GRAPHS_PER_SHAPE && self.cached[oldest].graph.is_some() => {
                CachedBatch { batch: Batch::default(), graph: None }
            }
            _ => self.cached.remove(oldest),
        };
        if known.prepare(&self.batch, to)? {
            self.remember(known);
            return Ok(true);
        }
        self.cached.clear();
        self.batching = false;
        Ok(false)
    }

    /// Puts a batch into the cache, as the most recently used one, and evicts the least recently used one if there are too many.
    fn remember(&mut self, known: CachedBatch<T>) {
        if self.cached.len() == CACHED_BATCHES {
            self.cached.remove(0);
        }
        self.cached.push(known);
    }

    /// Drops the batch and all graphs.
    pub fn discard(&mut self) {
        self.batch.clear();
        self.cached.clear();
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
