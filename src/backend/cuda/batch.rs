// SPDX-License-Identifier: MPL-2.0

//! Launches that are kept back for a moment and handed over in one go. The work of a stream repeats itself: a batch whose shape
//! (the sequence of kernels and grids) comes again becomes a graph, which the driver takes in one call, and of which only those
//! launches have to be set whose arguments are not what they were.
//!
//! This is bookkeeping and knows no driver: a [`Taker`] is one, or counts.

use std::any::TypeId;
use std::mem::MaybeUninit;
use std::ptr;

use super::driver::{Args, Kernel};
use crate::error::Result;

/// Launches that are kept back at most. The device begins with the first batch while the next one gathers: so it starts late by
/// the time that this many launches take to be written down, well below a millisecond, and not by that of a whole window.
pub const MOST: usize = 128;

/// Launches below which a batch is no graph. To set and to launch one takes some calls to the driver, and a few launches are no
/// more than that: what a frame takes to come in or to leave.
pub const LEAST: usize = 16;

/// Graphs of one shape. What is held from window to window, pictures for one, changes its places, and nearly all others with it,
/// but the places come again: a graph for each of those states has little to be set. There are two of them at 1408x768 and eight
/// at 3840x2160 (`benches/gpu --dry` counts what is set).
pub const STATES: usize = 8;

/// A graph is as good as the batch's own if no more than one in so many launches has to be set: keys and values, which are
/// elsewhere in each window, are in one in five.
const NEAR: usize = 3;

/// Batches that are remembered: some times those of a steady window, so that a first or a last window, whose shapes come once,
/// does not drive them out.
pub const REMEMBERED: usize = 128;

/// Of such words the memory for arguments is made. Those between the fields of a struct are not initialised.
type Word = MaybeUninit<u64>;

/// A launch that is kept back.
#[derive(Debug, Clone, Copy)]
pub struct Launch<F> {
    /// What the taker knows the kernel by.
    pub function: F,
    /// The kernel.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// The type of the arguments.
    args: TypeId,
    /// Where they begin, and how long they are.
    start: usize,
    words: usize,
    /// How two of them compare.
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
    /// Where they are.
    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr().cast()
    }

    /// A copy, for who keeps them.
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

    /// Forgets the launches, but keeps the memory.
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

/// Who takes launches.
pub trait Taker {
    /// What it knows a kernel by.
    type Function: Copy + PartialEq;
    /// Launches that it takes in one go.
    type Graph;

    /// Takes one launch.
    fn launch(&self, launch: &Launch<Self::Function>, args: Arguments<'_>) -> Result<()>;

    /// Makes a graph, in which each launch waits for the one before; `None` if it has no graphs.
    fn build(&self, batch: &Batch<Self::Function>) -> Result<Option<Self::Graph>>;

    /// Sets launch number `number` of a graph anew; false if it does not do that.
    fn set(
        &self,
        graph: &mut Self::Graph,
        number: usize,
        launch: &Launch<Self::Function>,
        args: Arguments<'_>,
    ) -> Result<bool>;

    /// Takes all launches of a graph.
    fn run(&self, graph: &Self::Graph) -> Result<()>;
}

/// A batch that has come, and the graph if its shape has come before.
struct Known<T: Taker> {
    batch: Batch<T::Function>,
    graph: Option<T::Graph>,
}

impl<T: Taker> Known<T> {
    /// Makes both those of `batch`, which is like the one before where there is a graph; false if `to` has no graphs.
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

/// What is kept back, and the graphs.
pub struct Keeper<T: Taker> {
    batch: Batch<T::Function>,
    /// The latest is the last.
    known: Vec<Known<T>>,
    /// Whether anything is kept back at all.
    keeps: bool,
}

impl<T: Taker> Keeper<T> {
    /// One that keeps launches back, or one that hands over each at once.
    pub fn new(keeps: bool) -> Self {
        Self { batch: Batch::default(), known: Vec::new(), keeps }
    }

    /// Keeps a launch back, and hands over what is kept if that is much.
    ///
    /// # Errors
    /// What `to` says of it, and of what was kept before.
    pub fn launch<A: Args>(
        &mut self,
        to: &T,
        function: T::Function,
        kernel: &Kernel,
        grid: [u32; 3],
        args: &A,
    ) -> Result<()> {
        self.batch.push(function, kernel, grid, args);
        if self.keeps && self.batch.len() < MOST { Ok(()) } else { self.hand_over(to) }
    }

    /// Hands over what is kept. After an error, the rest of it is lost.
    ///
    /// # Errors
    /// What `to` says.
    pub fn hand_over(&mut self, to: &T) -> Result<()> {
        let outcome = self.give(to);
        self.batch.clear();
        outcome
    }

    fn give(&mut self, to: &T) -> Result<()> {
        if self.keeps && self.batch.len() >= LEAST && self.find_graph(to)? {
            let graph = self.known.last().and_then(|known| known.graph.as_ref());
            return graph.map_or(Ok(()), |graph| to.run(graph));
        }
        self.batch.iter().try_for_each(|(launch, args)| to.launch(launch, args))
    }

    /// Whether the last of the known is now the batch with a graph.
    fn find_graph(&mut self, to: &T) -> Result<bool> {
        let is_like = |known: &Known<T>| known.batch.is_like(&self.batch);
        let alike: Vec<usize> = (0..self.known.len()).filter(|i| is_like(&self.known[*i])).collect();
        let Some(&oldest) = alike.first() else {
            self.remember(Known { batch: self.batch.clone(), graph: None });
            return Ok(false);
        };
        let near = self.batch.len() / NEAR;
        let changes = |i: &usize| self.known[*i].batch.changes(&self.batch).take(near + 1).count();
        let closest = alike.iter().map(|i| (changes(i), *i)).min();
        // On an error what was found is gone, as its graph may have arguments of both.
        let mut known = match closest {
            Some((changes, found)) if changes <= near => self.known.remove(found),
            _ if alike.len() < STATES && self.known[oldest].graph.is_some() => {
                Known { batch: Batch::default(), graph: None }
            }
            _ => self.known.remove(oldest),
        };
        if known.prepare(&self.batch, to)? {
            self.remember(known);
            return Ok(true);
        }
        self.known.clear();
        self.keeps = false;
        Ok(false)
    }

    /// Makes it the latest of the known, and forgets what has not been needed for the longest time if there are too many.
    fn remember(&mut self, known: Known<T>) {
        if self.known.len() == REMEMBERED {
            self.known.remove(0);
        }
        self.known.push(known);
    }

    /// Drops what is kept, and all graphs.
    pub fn discard(&mut self) {
        self.batch.clear();
        self.known.clear();
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
