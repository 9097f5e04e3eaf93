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
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::error::Error;

    const KERNEL: Kernel = Kernel { file: "", name: "some", threads: 32, shared: 0 };

    /// With a gap between its fields.
    #[derive(Clone, Copy, PartialEq)]
    #[repr(C)]
    struct Value {
        small: u32,
        value: u64,
    }

    // SAFETY: nobody runs kernels here.
    unsafe impl Args for Value {}

    /// What is launched: function and value.
    type Ran = (u32, u64);

    /// Runs graphs as the driver does: with the values that were set.
    #[derive(Default)]
    struct Recorder {
        ran: RefCell<Vec<Ran>>,
        /// Launches outside of graphs, graphs built, launches set anew, graphs run.
        counts: [Cell<usize>; 4],
        refuses: [Cell<bool>; 2],
        fails: Cell<bool>,
    }

    fn value(args: Arguments<'_>) -> u64 {
        // SAFETY: all arguments here are of this type.
        unsafe { &*args.as_ptr().cast::<Value>() }.value
    }

    impl Recorder {
        fn count(&self, which: usize) -> Result<()> {
            self.counts[which].update(|n| n + 1);
            if self.fails.get() { Err(Error::Compute("as asked".into())) } else { Ok(()) }
        }

        fn take(&self) -> (Vec<Ran>, [usize; 4]) {
            (self.ran.take(), self.counts.each_ref().map(|n| n.replace(0)))
        }
    }

    impl Taker for Recorder {
        type Function = u32;
        type Graph = Vec<Ran>;

        fn launch(&self, launch: &Launch<u32>, args: Arguments<'_>) -> Result<()> {
            self.ran.borrow_mut().push((launch.function, value(args)));
            self.count(0)
        }

        fn build(&self, batch: &Batch<u32>) -> Result<Option<Vec<Ran>>> {
            self.count(1)?;
            let nodes = batch.iter().map(|(launch, args)| (launch.function, value(args)));
            Ok((!self.refuses[0].get()).then(|| nodes.collect()))
        }

        fn set(&self, graph: &mut Vec<Ran>, number: usize, _: &Launch<u32>, args: Arguments<'_>) -> Result<bool> {
            self.count(2)?;
            graph[number].1 = value(args);
            Ok(!self.refuses[1].get())
        }

        fn run(&self, graph: &Vec<Ran>) -> Result<()> {
            self.ran.borrow_mut().extend(graph);
            self.count(3)
        }
    }

    /// Keeps launches with these values, one function each, and hands them over.
    fn hand_over(keeper: &mut Keeper<Recorder>, to: &Recorder, grid: u32, values: &[u64]) -> Result<()> {
        for (function, &value) in (0..).zip(values) {
            keeper.launch(to, function, &KERNEL, [grid, 1, 1], &Value { small: 3, value })?;
        }
        keeper.hand_over(to)
    }

    /// Values of which only the first is another in each round.
    fn values_of(round: u64) -> [u64; LEAST] {
        std::array::from_fn(|i| if i == 0 { round } else { 5 })
    }

    /// What runs if `values` are launched.
    fn expected(values: &[u64]) -> Vec<Ran> {
        (0..).zip(values.iter().copied()).collect()
    }

    #[test]
    fn a_shape_that_comes_again_is_a_graph_of_which_changes_alone_are_set() {
        let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
        let mut values: Vec<u64> = (100..).take(LEAST).collect();
        for counts in [[LEAST, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]] {
            hand_over(&mut keeper, &recorder, 1, &values).unwrap();
            assert_eq!(recorder.take(), (expected(&values), counts));
        }
        (values[3], values[LEAST - 1]) = (7, 8);
        hand_over(&mut keeper, &recorder, 1, &values).unwrap();
        assert_eq!(recorder.take(), (expected(&values), [0, 0, 2, 1]));
        hand_over(&mut keeper, &recorder, 1, &values).unwrap();
        assert_eq!(recorder.take(), (expected(&values), [0, 0, 0, 1]));
        // Another grid is another shape.
        hand_over(&mut keeper, &recorder, 2, &values).unwrap();
        assert_eq!(recorder.take(), (expected(&values), [LEAST, 0, 0, 0]));
    }

    #[test]
    fn states_that_come_in_turn_have_a_graph_each() {
        let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
        let mut sets = Vec::new();
        for round in 0..12 {
            // Two thirds change to and fro, one launch always.
            let mut values: Vec<u64> = (0..LEAST as u64).map(|i| if i % 3 == 0 { i } else { round % 2 }).collect();
            values[0] = 100 + round;
            hand_over(&mut keeper, &recorder, 1, &values).unwrap();
            let (ran, counts) = recorder.take();
            assert_eq!(ran, expected(&values), "round {round}");
            sets.push(counts);
        }
        assert_eq!(sets[..3], [[LEAST, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]]);
        assert!(sets[3..].iter().all(|counts| *counts == [0, 0, 1, 1]), "{sets:?}");
        // States without end have no graphs without end.
        for round in 0..20 {
            hand_over(&mut keeper, &recorder, 1, &[1000 + round; LEAST]).unwrap();
            assert_eq!(recorder.take().0, expected(&[1000 + round; LEAST]));
        }
        assert_eq!(keeper.known.len(), STATES);
    }

    #[test]
    fn few_launches_are_no_graph_and_many_are_several_batches() {
        let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
        for _ in 0..3 {
            hand_over(&mut keeper, &recorder, 1, &[5; LEAST - 1]).unwrap();
            assert_eq!(recorder.take(), (expected(&[5; LEAST - 1]), [LEAST - 1, 0, 0, 0]));
        }
        for counts in [[MOST + LEAST, 0, 0, 0], [0, 2, 0, 2]] {
            hand_over(&mut keeper, &recorder, 1, &[5; MOST + LEAST]).unwrap();
            assert_eq!(recorder.take(), (expected(&[5; MOST + LEAST]), counts));
        }
    }

    #[test]
    fn nothing_is_kept_by_one_that_does_not() {
        let (mut keeper, recorder) = (Keeper::new(false), Recorder::default());
        keeper.launch(&recorder, 0, &KERNEL, [1; 3], &Value { small: 0, value: 4 }).unwrap();
        assert_eq!(recorder.take(), (vec![(0, 4)], [1, 0, 0, 0]));
    }

    #[test]
    fn without_graphs_all_is_launched_once_and_from_then_on_at_once() {
        for which in 0..2 {
            let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
            recorder.refuses[which].set(true);
            for round in 0..4 {
                let values = values_of(round);
                hand_over(&mut keeper, &recorder, 1, &values).unwrap();
                assert_eq!(recorder.take().0, expected(&values), "round {round}");
            }
            assert!(keeper.known.is_empty() && !keeper.keeps);
        }
    }

    #[test]
    fn an_error_is_told_and_what_was_kept_is_gone() {
        // A launch, a graph that is made, one that is set, and one that is run.
        for (rounds, value, which) in [(0, 9, 0), (1, 9, 1), (2, 9, 2), (2, 1, 3)] {
            let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
            for round in 0..rounds {
                hand_over(&mut keeper, &recorder, 1, &values_of(round)).unwrap();
            }
            recorder.take();
            recorder.fails.set(true);
            hand_over(&mut keeper, &recorder, 1, &values_of(value)).unwrap_err();
            recorder.fails.set(false);
            assert_eq!(recorder.take().1, std::array::from_fn(|i| usize::from(i == which)));
            keeper.hand_over(&recorder).unwrap();
            assert_eq!(recorder.take().0, []);
            for round in 10..13 {
                hand_over(&mut keeper, &recorder, 1, &values_of(round)).unwrap();
                assert_eq!(recorder.take().0, expected(&values_of(round)));
            }
        }
    }

    #[test]
    fn the_shape_that_was_not_needed_for_the_longest_time_goes() {
        let (mut keeper, recorder) = (Keeper::new(true), Recorder::default());
        let mut built = |grid| {
            hand_over(&mut keeper, &recorder, grid, &[0; LEAST]).unwrap();
            recorder.take().1[1..] == [1, 0, 1]
        };
        for _ in 0..2 {
            built(1);
        }
        for grid in 2..=REMEMBERED as u32 {
            assert!(!built(grid));
        }
        // Shape 1 is needed once more, so shape 2 makes room.
        assert!(!built(1) && !built(1000));
        assert!(built(3), "it was still known");
        assert!(!built(2) && built(2), "it was forgotten");
        assert_eq!(keeper.known.len(), REMEMBERED);
    }
}
