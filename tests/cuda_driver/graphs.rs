// SPDX-License-Identifier: MPL-2.0

//! Launches that are kept back and become graphs: what arrives, in which order, and by which calls.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;

use gstflashvsr::backend::cuda::batch::{CACHED_BATCHES, MAX_BATCH, MIN_GRAPH};
use gstflashvsr::backend::cuda::driver::{Address, Driver, Kernel, Memory, Queue};
use gstflashvsr::backend::cuda::nvidia::{Nvidia, NvidiaQueue};
use gstflashvsr::backend::cuda::{CudaBackend, Precision};
use gstflashvsr::backend::{Backend, Epilogue, HostTensor};

use crate::{KERNEL, Seen, with_fake};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// A function of the stand-in, which is loaded.
fn symbol(name: &CStr) -> *mut c_void {
    // SAFETY: the names are C strings; what is found stays loaded.
    let found = unsafe { dlsym(dlopen(c"libcuda.so".as_ptr(), 1), name.as_ptr()) };
    assert!(!found.is_null());
    found
}

/// How often a function of the stand-in was called.
fn calls(name: &str) -> i32 {
    // SAFETY: fake.c defines it so.
    let count: unsafe extern "C" fn(*const c_char) -> c_int = unsafe { std::mem::transmute(symbol(c"fake_calls")) };
    let name = CString::new(name).unwrap();
    // SAFETY: it takes a C string.
    unsafe { count(name.as_ptr()) }
}

/// How much of what the stand-in has made is still there.
fn live() -> i32 {
    // SAFETY: fake.c defines it so.
    let count: unsafe extern "C" fn() -> c_int = unsafe { std::mem::transmute(symbol(c"fake_live")) };
    // SAFETY: it takes nothing.
    unsafe { count() }
}

/// Launches by themselves, graphs made, launches set anew, graphs launched.
fn counts() -> [i32; 4] {
    ["cuLaunchKernel", "cuGraphInstantiateWithFlags", "cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"].map(calls)
}

/// What has been counted since `before`.
fn since(before: [i32; 4]) -> [i32; 4] {
    let now = counts();
    std::array::from_fn(|i| now[i] - before[i])
}

/// Bytes that the stand-in's kernel writes.
const OUT: usize = 48;
const N: i32 = MIN_GRAPH as i32;

/// Values of which only the first is another in each round.
fn values_of(round: u64) -> [u64; MIN_GRAPH] {
    std::array::from_fn(|i| if i == 0 { round } else { 5 })
}

/// A device, and a place for each of as many launches as a graph has at least.
struct Bench {
    driver: Nvidia,
    queue: NvidiaQueue,
    outs: Address,
}

impl Bench {
    fn new(driver: Nvidia) -> Self {
        let (queue, outs) = (driver.queue().unwrap(), driver.allocate(MIN_GRAPH * OUT).unwrap());
        Self { driver, queue, outs }
    }

    fn open() -> Self {
        Self::new(Nvidia::open(0).unwrap())
    }

    fn launch(&self, place: usize, grid: u32, value: u64) -> gstflashvsr::Result<()> {
        let out = self.outs + (place * OUT) as Address;
        self.queue.launch(&KERNEL, [grid, 1, 1], &Seen { value, out })
    }

    /// Grid and value that the last kernel with each place had.
    fn seen(&self) -> gstflashvsr::Result<Vec<(u64, u64)>> {
        let mut bytes = vec![0; MIN_GRAPH * OUT];
        self.queue.download(&mut bytes, self.outs)?;
        let word = |out: &[u8], i: usize| u64::from_ne_bytes(out[8 * i..8 * i + 8].try_into().unwrap());
        Ok(bytes.chunks(OUT).map(|out| (word(out, 0), word(out, 5))).collect())
    }

    /// Launches a kernel for each place, whose grid is the place's number, and checks what they saw.
    fn round(&self, values: &[u64]) -> gstflashvsr::Result<()> {
        self.queue.fill(self.outs, 0xff, MIN_GRAPH * OUT)?;
        for (place, value) in values.iter().enumerate() {
            self.launch(place, place as u32 + 1, *value)?;
        }
        let expected: Vec<_> = (1..).zip(values.iter().copied()).collect();
        assert_eq!(self.seen()?, expected);
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.driver.free(self.outs, MIN_GRAPH * OUT);
    }
}

#[test]
fn a_shape_that_comes_again_is_one_call() {
    with_fake("graphs::a_shape_that_comes_again_is_one_call", &[], || {
        let bench = Bench::open();
        let mut values: Vec<u64> = (100..).take(MIN_GRAPH).collect();
        for expected in [[N, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]] {
            let before = counts();
            bench.round(&values).unwrap();
            assert_eq!(since(before), expected);
        }
        let before = counts();
        (values[0], values[7]) = (1, 2);
        bench.round(&values).unwrap();
        bench.round(&values).unwrap();
        assert_eq!(since(before), [0, 0, 2, 2], "what did not change is not set");
        assert_eq!(calls("cuGraphAddKernelNode_v2"), N);
        assert_eq!(bench.driver.notice(), None);
    });
}

#[test]
fn another_kernel_or_grid_is_another_shape() {
    with_fake("graphs::another_kernel_or_grid_is_another_shape", &[], || {
        let bench = Bench::open();
        let of = |name, shared, grid| {
            let before = counts();
            let kernel = Kernel { name, shared, ..KERNEL };
            for place in 0..MIN_GRAPH {
                let out = bench.outs + (place * OUT) as Address;
                bench.queue.launch(&kernel, [grid, 1, 1], &Seen { value: 5, out }).unwrap();
            }
            assert_eq!(bench.seen().unwrap(), [(u64::from(grid), 5); MIN_GRAPH]);
            since(before)
        };
        for expected in [[N, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 1]] {
            assert_eq!(of("layer_norm_f32", 0, 1), expected);
            assert_eq!(of("layer_norm_f32", 0, 2), expected);
            assert_eq!(of("layer_norm_bf16", 0, 1), expected);
            assert_eq!(of("layer_norm_f16", 101_376, 1), expected);
        }
    });
}

#[test]
fn copies_stay_between_launches() {
    with_fake("graphs::copies_stay_between_launches", &[], || {
        let bench = Bench::open();
        for round in 0..4 {
            // Each is overwritten by what comes behind it: by a fill, an upload, and a launch.
            for place in 0..MIN_GRAPH {
                bench.launch(place, 7, round).unwrap();
            }
            bench.queue.fill(bench.outs, 0, OUT).unwrap();
            for place in (1..MIN_GRAPH).chain([1]) {
                bench.launch(place, 8, round).unwrap();
            }
            let aside = bench.queue.start_download(bench.outs + 3 * OUT as Address, OUT).unwrap();
            bench.queue.upload(bench.outs + OUT as Address, &[1; OUT]).unwrap();
            bench.launch(2, 9, round).unwrap();
            let mut expected = vec![(8, round); MIN_GRAPH];
            let ones = u64::from_ne_bytes([1; 8]);
            expected[..3].copy_from_slice(&[(0, 0), (ones, ones), (9, round)]);
            assert_eq!(bench.seen().unwrap(), expected, "round {round}");
            let grid = |bytes: &[u8]| assert_eq!(bytes[..8], 8u64.to_ne_bytes(), "round {round}");
            bench.queue.finish_download(aside, &mut { grid }).unwrap();
        }
    });
}

#[test]
fn launches_are_kept_back_until_there_are_many() {
    with_fake("graphs::launches_are_kept_back_until_there_are_many", &[], || {
        let bench = Bench::open();
        for round in 0..3 {
            let before = counts();
            for number in 1..MAX_BATCH {
                bench.launch(number % MIN_GRAPH, 1, number as u64).unwrap();
            }
            assert_eq!(since(before), [0; 4]);
            bench.launch(0, 1, round).unwrap();
            assert_eq!(since(before), [[MAX_BATCH as i32, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1]][round as usize]);
            bench.queue.wait().unwrap();
            assert_eq!(bench.seen().unwrap()[0], (1, round));
        }
        // Who waits, for all or for a copy, waits for no launch that is not made.
        let copy = bench.queue.start_download(bench.outs, OUT).unwrap();
        let before = counts();
        bench.launch(1, 3, 1).unwrap();
        bench.queue.finish_download(copy, &mut |_| ()).unwrap();
        assert_eq!(since(before), [1, 0, 0, 0]);
        bench.launch(1, 3, 1).unwrap();
        bench.queue.wait().unwrap();
        assert_eq!(since(before), [2, 0, 0, 0]);
    });
}

#[test]
fn without_graphs_each_launch_is_made_at_once() {
    with_fake("graphs::without_graphs_each_launch_is_made_at_once", &[], || {
        let bench = Bench::new(Nvidia::open(0).unwrap().without_graphs());
        let before = counts();
        bench.launch(0, 1, 1).unwrap();
        assert_eq!(since(before), [1, 0, 0, 0]);
        for round in 0..3 {
            bench.round(&[round; MIN_GRAPH]).unwrap();
        }
        assert_eq!(since(before), [3 * N + 1, 0, 0, 0]);
        assert_eq!(bench.driver.notice(), None);
    });
}

/// The results are the same without graphs, and the reason is told once.
fn check_refusal(call: &str) {
    let bench = Bench::open();
    for round in 0..4 {
        bench.round(&values_of(round)).unwrap();
    }
    let notice = bench.driver.notice().unwrap();
    let said = call.trim_end_matches("_v2").trim_end_matches("WithFlags");
    assert!(notice.contains("launched one by one") && notice.contains(said), "{notice}");
    assert_eq!(bench.driver.notice(), None);
    // Neither this queue nor a new one keeps anything back, or asks again.
    let asked = calls(call);
    let other = Bench::new(bench.driver.clone());
    for bench in [&bench, &other] {
        let before = counts();
        bench.launch(0, 1, 1).unwrap();
        assert_eq!(since(before), [1, 0, 0, 0]);
        bench.round(&[5; MIN_GRAPH]).unwrap();
        bench.round(&[5; MIN_GRAPH]).unwrap();
    }
    assert_eq!(calls(call), asked);
    assert_eq!(bench.driver.notice(), None);
}

macro_rules! refusals {
    ($($name:ident: $call:literal, $code:literal;)*) => {$(
        #[test]
        fn $name() {
            let fail = concat!($call, "=", $code);
            with_fake(concat!("graphs::", stringify!($name)), &[("FAKE_FAIL", fail)], || check_refusal($call));
        }
    )*};
}

refusals! {
    without_support_of_graphs_it_works: "cuGraphCreate", "801";
    without_nodes_it_works: "cuGraphAddKernelNode_v2", "1";
    without_memory_for_a_graph_it_works: "cuGraphInstantiateWithFlags", "2";
    without_memory_for_a_graph_on_the_device_it_works: "cuGraphUpload", "2";
    without_changes_of_graphs_it_works: "cuGraphExecKernelNodeSetParams_v2", "910";
}

/// The error is told once, by the launch that fails or by what comes next, and nothing hangs. `lost`: and again by all that
/// comes after.
fn check_failure(lost: bool) {
    let bench = Bench::open();
    let error = (0..3).find_map(|round| bench.round(&values_of(round)).err()).expect("it fails").to_string();
    assert!(error.contains("cuGraph"), "{error}");
    let after = bench.round(&[7; MIN_GRAPH]);
    assert_eq!(after.is_err(), lost, "{after:?}");
    assert_eq!(bench.driver.notice(), None, "it is no refusal");
}

#[test]
fn a_fault_while_a_graph_is_made_is_told() {
    let fault = [("FAKE_FAIL", "cuGraphInstantiateWithFlags=700")];
    with_fake("graphs::a_fault_while_a_graph_is_made_is_told", &fault, || check_failure(true));
}

#[test]
fn a_fault_while_a_launch_is_set_is_told() {
    let fault = [("FAKE_FAIL", "cuGraphExecKernelNodeSetParams_v2=700")];
    with_fake("graphs::a_fault_while_a_launch_is_set_is_told", &fault, || check_failure(true));
}

#[test]
fn a_fault_when_a_graph_is_launched_is_told() {
    let fault = [("FAKE_FAIL", "cuGraphLaunch=700")];
    with_fake("graphs::a_fault_when_a_graph_is_launched_is_told", &fault, || check_failure(true));
}

#[test]
fn a_graph_that_cannot_be_launched_is_an_error() {
    // It may have begun: to launch its kernels again would be wrong.
    with_fake("graphs::a_graph_that_cannot_be_launched_is_an_error", &[("FAKE_FAIL", "cuGraphLaunch=1")], || {
        let bench = Bench::open();
        bench.round(&[1; MIN_GRAPH]).unwrap();
        let before = counts();
        let error = bench.round(&[1; MIN_GRAPH]).unwrap_err().to_string();
        assert!(error.contains("cuGraphLaunch"), "{error}");
        assert_eq!(since(before), [0, 1, 0, 1]);
        bench.queue.wait().unwrap();
        assert_eq!(since(before), [0, 1, 0, 1], "what is lost is lost");
    });
}

#[test]
fn memory_is_freed_behind_the_launches_that_use_it() {
    with_fake("graphs::memory_is_freed_behind_the_launches_that_use_it", &[], || {
        let bench = Bench::open();
        for round in 0..4 {
            let out = bench.driver.allocate(OUT).unwrap();
            for _ in 0..MIN_GRAPH {
                bench.queue.launch(&KERNEL, [1; 3], &Seen { value: round, out }).unwrap();
            }
            // Where a kernel writes into what was freed, the stand-in is lost.
            bench.driver.free(out, OUT);
            bench.queue.wait().unwrap();
            bench.round(&values_of(round)).unwrap();
        }
    });
}

#[test]
fn a_failure_while_memory_is_freed_is_told_by_the_next_call() {
    let test = "graphs::a_failure_while_memory_is_freed_is_told_by_the_next_call";
    with_fake(test, &[("FAKE_FAIL", "cuLaunchKernel=1")], || {
        let bench = Bench::open();
        let next: [fn(&Bench) -> gstflashvsr::Result<()>; 4] = [
            |bench| bench.queue.wait(),
            |bench| bench.launch(1, 1, 1),
            |bench| bench.queue.fill(bench.outs, 0, OUT),
            |bench| bench.seen().map(drop),
        ];
        for next in next {
            let other = bench.driver.allocate(OUT).unwrap();
            bench.launch(0, 1, 1).unwrap();
            bench.driver.free(other, OUT);
            let error = next(&bench).unwrap_err().to_string();
            assert!(error.contains("cuLaunchKernel of layer_norm_f32"), "{error}");
            bench.queue.wait().unwrap();
        }
    });
}

#[test]
fn a_queue_that_is_dropped_launches_nothing_more() {
    with_fake("graphs::a_queue_that_is_dropped_launches_nothing_more", &[], || {
        let driver = Nvidia::open(0).unwrap();
        let (queue, out) = (driver.queue().unwrap(), driver.allocate(OUT).unwrap());
        let before = counts();
        queue.launch(&KERNEL, [1; 3], &Seen { value: 0, out }).unwrap();
        drop(queue);
        driver.free(out, OUT);
        assert_eq!(since(before), [0; 4]);
    });
}

#[test]
fn nothing_is_left_behind() {
    with_fake("graphs::nothing_is_left_behind", &[], || {
        let bench = Bench::open();
        // More shapes than are remembered.
        for grid in 1..2 * CACHED_BATCHES as u32 {
            for place in (0..3 * MIN_GRAPH).map(|i| i % MIN_GRAPH) {
                bench.launch(place, grid, 3).unwrap();
                if place + 1 == MIN_GRAPH {
                    bench.queue.fill(bench.outs, 0, 1).unwrap();
                }
            }
        }
        bench.seen().unwrap();
        // Of each, the graph and what it was made of; and some memory, streams and events.
        let others = live() - 2 * CACHED_BATCHES as i32;
        assert!((0..20).contains(&others), "{others}");
        bench.launch(0, 1, 1).unwrap();
        drop(bench);
        assert_eq!(live(), 0);
    });
}

#[test]
fn queues_and_threads_keep_apart() {
    with_fake("graphs::queues_and_threads_keep_apart", &[], || {
        let driver = Nvidia::open(0).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let bench = Bench::new(driver.clone());
                scope.spawn(move || {
                    for round in 0..100 {
                        // Hands over what the other queues keep.
                        let other = bench.driver.allocate(OUT).unwrap();
                        bench.round(&values_of(thread * 1000 + round / 2)).unwrap();
                        bench.driver.free(other, OUT);
                    }
                });
            }
        });
    });
}

/// Layers are loaded, used, and dropped at once, as a network does for its prompt.
#[test]
fn a_layer_may_go_before_its_work_is_done() {
    with_fake("graphs::a_layer_may_go_before_its_work_is_done", &[("FAKE_CAPABILITY", "8.0")], || {
        let backend = CudaBackend::new(Arc::new(Nvidia::open(0).unwrap()), Precision::Bf16).unwrap();
        let zeros =
            |dims: &[usize]| HostTensor::zeros(dims, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap();
        let rows = backend.rows(&[0.0; 128 * 64], 128, 64).unwrap();
        let before = counts();
        for _ in 0..3 {
            let layer = backend.prepare_linear(zeros(&[64, 64]), None, None).unwrap();
            backend.linear(&rows, &layer, Epilogue::None).unwrap();
            drop(layer);
            assert!(since(before)[0] > 0, "the launch went before the layer");
        }
        // A stream that is given up in the midst of its work.
        let layer = backend.prepare_linear(zeros(&[64, 64]), None, None).unwrap();
        let before = counts();
        let out = backend.linear(&rows, &layer, Epilogue::None).unwrap();
        drop(backend);
        drop((rows, out, layer));
        assert_eq!((since(before), live()), ([0; 4], 0));
    });
}
