// SPDX-License-Identifier: MPL-2.0

//! Batches are handed over whole and in order, whatever becomes a graph.

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

impl LaunchSink for Recorder {
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
fn flush(batcher: &mut LaunchBatcher<Recorder>, to: &Recorder, grid: u32, values: &[u64]) -> Result<()> {
    for (function, &value) in (0..).zip(values) {
        batcher.launch(to, function, &KERNEL, [grid, 1, 1], &Value { small: 3, value })?;
    }
    batcher.flush(to)
}

/// Values of which only the first is another in each round.
fn values_of(round: u64) -> [u64; MIN_GRAPH] {
    std::array::from_fn(|i| if i == 0 { round } else { 5 })
}

/// What runs if `values` are launched.
fn expected(values: &[u64]) -> Vec<Ran> {
    (0..).zip(values.iter().copied()).collect()
}

#[test]
fn a_shape_that_comes_again_is_a_graph_of_which_changes_alone_are_set() {
    let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
    let mut values: Vec<u64> = (100..).take(MIN_GRAPH).collect();
    for counts in [[MIN_GRAPH, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]] {
        flush(&mut batcher, &recorder, 1, &values).unwrap();
        assert_eq!(recorder.take(), (expected(&values), counts));
    }
    (values[3], values[MIN_GRAPH - 1]) = (7, 8);
    flush(&mut batcher, &recorder, 1, &values).unwrap();
    assert_eq!(recorder.take(), (expected(&values), [0, 0, 2, 1]));
    flush(&mut batcher, &recorder, 1, &values).unwrap();
    assert_eq!(recorder.take(), (expected(&values), [0, 0, 0, 1]));
    // Another grid is another shape.
    flush(&mut batcher, &recorder, 2, &values).unwrap();
    assert_eq!(recorder.take(), (expected(&values), [MIN_GRAPH, 0, 0, 0]));
}

#[test]
fn states_that_come_in_turn_have_a_graph_each() {
    let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
    let mut sets = Vec::new();
    for round in 0..12 {
        // Two thirds change to and fro, one launch always.
        let mut values: Vec<u64> = (0..MIN_GRAPH as u64).map(|i| if i % 3 == 0 { i } else { round % 2 }).collect();
        values[0] = 100 + round;
        flush(&mut batcher, &recorder, 1, &values).unwrap();
        let (ran, counts) = recorder.take();
        assert_eq!(ran, expected(&values), "round {round}");
        sets.push(counts);
    }
    assert_eq!(sets[..3], [[MIN_GRAPH, 0, 0, 0], [0, 1, 0, 1], [0, 1, 0, 1]]);
    assert!(sets[3..].iter().all(|counts| *counts == [0, 0, 1, 1]), "{sets:?}");
    // States without end have no graphs without end.
    for round in 0..20 {
        flush(&mut batcher, &recorder, 1, &[1000 + round; MIN_GRAPH]).unwrap();
        assert_eq!(recorder.take().0, expected(&[1000 + round; MIN_GRAPH]));
    }
    assert_eq!(batcher.cached.len(), GRAPHS_PER_SHAPE);
}

#[test]
fn few_launches_are_no_graph_and_many_are_several_batches() {
    let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
    for _ in 0..3 {
        flush(&mut batcher, &recorder, 1, &[5; MIN_GRAPH - 1]).unwrap();
        assert_eq!(recorder.take(), (expected(&[5; MIN_GRAPH - 1]), [MIN_GRAPH - 1, 0, 0, 0]));
    }
    for counts in [[MAX_BATCH + MIN_GRAPH, 0, 0, 0], [0, 2, 0, 2]] {
        flush(&mut batcher, &recorder, 1, &[5; MAX_BATCH + MIN_GRAPH]).unwrap();
        assert_eq!(recorder.take(), (expected(&[5; MAX_BATCH + MIN_GRAPH]), counts));
    }
}

#[test]
fn nothing_is_kept_by_one_that_does_not() {
    let (mut batcher, recorder) = (LaunchBatcher::new(false), Recorder::default());
    batcher.launch(&recorder, 0, &KERNEL, [1; 3], &Value { small: 0, value: 4 }).unwrap();
    assert_eq!(recorder.take(), (vec![(0, 4)], [1, 0, 0, 0]));
}

#[test]
fn without_graphs_all_is_launched_once_and_from_then_on_at_once() {
    for which in 0..2 {
        let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
        recorder.refuses[which].set(true);
        for round in 0..4 {
            let values = values_of(round);
            flush(&mut batcher, &recorder, 1, &values).unwrap();
            assert_eq!(recorder.take().0, expected(&values), "round {round}");
        }
        assert!(batcher.cached.is_empty() && !batcher.batching);
    }
}

#[test]
fn an_error_is_told_and_what_was_kept_is_gone() {
    // A launch, a graph that is made, one that is set, and one that is run.
    for (rounds, value, which) in [(0, 9, 0), (1, 9, 1), (2, 9, 2), (2, 1, 3)] {
        let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
        for round in 0..rounds {
            flush(&mut batcher, &recorder, 1, &values_of(round)).unwrap();
        }
        recorder.take();
        recorder.fails.set(true);
        flush(&mut batcher, &recorder, 1, &values_of(value)).unwrap_err();
        recorder.fails.set(false);
        assert_eq!(recorder.take().1, std::array::from_fn(|i| usize::from(i == which)));
        batcher.flush(&recorder).unwrap();
        assert_eq!(recorder.take().0, []);
        for round in 10..13 {
            flush(&mut batcher, &recorder, 1, &values_of(round)).unwrap();
            assert_eq!(recorder.take().0, expected(&values_of(round)));
        }
    }
}

#[test]
fn the_shape_that_was_not_needed_for_the_longest_time_goes() {
    let (mut batcher, recorder) = (LaunchBatcher::new(true), Recorder::default());
    let mut built = |grid| {
        flush(&mut batcher, &recorder, grid, &[0; MIN_GRAPH]).unwrap();
        recorder.take().1[1..] == [1, 0, 1]
    };
    for _ in 0..2 {
        built(1);
    }
    for grid in 2..=CACHED_BATCHES as u32 {
        assert!(!built(grid));
    }
    // Shape 1 is needed once more, so shape 2 makes room.
    assert!(!built(1) && !built(1000));
    assert!(built(3), "it was still known");
    assert!(!built(2) && built(2), "it was forgotten");
    assert_eq!(batcher.cached.len(), CACHED_BATCHES);
}
