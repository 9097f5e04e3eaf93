// SPDX-License-Identifier: MPL-2.0

//! Kernels with mistakes in them, `kernels/emulator/planted.cpp` and `planted_hopper.cpp`.

use gstflashvsr::Error;
use gstflashvsr::backend::cuda::driver::{Address, Args, Kernel, Memory, Queue};
use gstflashvsr::backend::cuda::emulator::Emulator;

const THREADS: u32 = 128;
const REVERSE_SHARED: u32 = 4 * THREADS;
const ADD_SHARED: u32 = 2 * 16 * THREADS;
/// Orders of the threads that are tried: in their numbers' order, and some others.
const ORDERS: std::ops::Range<u64> = 0..20;

#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct PlantedArgs {
    x: Address,
    out: Address,
}

// SAFETY: laid out as the kernels' struct.
unsafe impl Args for PlantedArgs {}

fn kernel(name: &'static str, shared: u32) -> Kernel {
    Kernel { file: "planted", name, threads: THREADS, shared }
}

/// What a kernel makes of 0, 1, 2, ... in each order of the threads.
fn run(kernel: &Kernel, inputs: usize, outputs: usize) -> Vec<Result<Vec<f32>, Error>> {
    run_on(kernel, &(0..inputs).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>(), outputs)
}

/// What a kernel makes of `values` in each order of the threads.
fn run_on(kernel: &Kernel, values: &[u8], outputs: usize) -> Vec<Result<Vec<f32>, Error>> {
    let device = Emulator::with_memory(1 << 20);
    let (x, out) = (device.allocate(values.len()).unwrap(), device.allocate(4 * outputs).unwrap());
    device.upload(x, values).unwrap();
    let results = ORDERS
        .map(|order| {
            device.shuffle_threads(order);
            device.fill(out, 0xff, 4 * outputs)?;
            device.launch(kernel, [1, 1, 1], &PlantedArgs { x, out })?;
            let mut bytes = vec![0; 4 * outputs];
            device.download(&mut bytes, out)?;
            Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect())
        })
        .collect();
    device.free(x, values.len());
    device.free(out, 4 * outputs);
    results
}

fn always(results: &[Result<Vec<f32>, Error>], want: &[f32]) -> bool {
    results.iter().all(|result| result.as_ref().is_ok_and(|got| got == want))
}

#[test]
fn a_missing_barrier_shows() {
    let reversed: Vec<f32> = (0..THREADS).rev().map(|i| i as f32).collect();
    let run = |name| run(&kernel(name, REVERSE_SHARED), 128, 128);
    assert!(always(&run("planted_reverse"), &reversed), "the right kernel is right in every order");
    for (order, result) in ORDERS.zip(run("planted_reverse_without_barrier")) {
        assert!(result.unwrap() != reversed, "order {order} hides the mistake");
    }
}

#[test]
fn a_wait_that_is_too_weak_shows() {
    let sums: Vec<f32> = (0..512).map(|i| (2 * i + 512) as f32).collect();
    let run = |name| run(&kernel(name, ADD_SHARED), 1024, 512);
    assert!(always(&run("planted_add"), &sums), "the right kernel is right in every order");
    for (order, result) in ORDERS.zip(run("planted_add_with_weak_wait")) {
        assert!(result.unwrap().iter().all(|sum| sum.is_nan()), "order {order} hides the mistake");
    }
}

#[test]
fn shared_memory_that_nobody_wrote_is_not_a_number() {
    for result in run(&kernel("planted_unwritten", REVERSE_SHARED), 128, 128) {
        assert!(result.unwrap().iter().all(|value| value.is_nan()));
    }
}

#[test]
fn a_warp_that_waits_for_lanes_that_have_left_is_reported() {
    for result in run(&kernel("planted_absent_lanes", 0), 128, 128) {
        let message = result.unwrap_err().to_string();
        assert!(message.contains("planted_absent_lanes"), "{message}");
    }
}

/// MMAs of Hopper's warpgroups: 64 x 64 values in each operand.
const SIDE: usize = 64;
const K_TILES: usize = 5;
/// Two stages of two operands and two barriers, filled up to a multiple of 1024 bytes.
const WGMMA_SHARED: u32 = 2 * 2 * 8192 + 1024;

/// A value of A or B, which bf16 holds.
fn operand(k_tile: usize, is_b: bool, row: usize, column: usize) -> f32 {
    ((7 * k_tile + 5 * row + 3 * column * column + usize::from(is_b)) % 11) as f32 - 5.0
}

/// An operand as it lies in shared memory: 16-byte pieces of a row swizzled by its number.
fn tile(value: impl Fn(usize, usize) -> f32) -> Vec<u8> {
    let mut bytes = vec![0; 2 * SIDE * SIDE];
    for (row, column) in (0..SIDE * SIDE).map(|i| (i / SIDE, i % SIDE)) {
        let at = 2 * (row * SIDE + ((column / 8) ^ (row % 8)) * 8 + column % 8);
        bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(value(row, column)).to_le_bytes());
    }
    bytes
}

/// Runs a planted GEMM of all k tiles; B is stored as rows of columns, or (`mn_major`) of k.
fn run_wgmma(name: &'static str, mn_major: bool) -> Vec<Result<Vec<f32>, Error>> {
    let operands: Vec<u8> = (0..K_TILES)
        .flat_map(|k_tile| {
            let a = tile(|row, k| operand(k_tile, false, row, k));
            let b = tile(|i, j| if mn_major { operand(k_tile, true, j, i) } else { operand(k_tile, true, i, j) });
            [a, b].concat()
        })
        .collect();
    let kernel = Kernel { file: "planted_hopper", name, threads: 256, shared: WGMMA_SHARED };
    run_on(&kernel, &operands, SIDE * SIDE)
}

fn sum_of_products() -> Vec<f32> {
    let dot = |row, column| {
        let term = |k_tile, k| operand(k_tile, false, row, k) * operand(k_tile, true, column, k);
        (0..K_TILES * SIDE).map(|i| term(i / SIDE, i % SIDE)).sum()
    };
    (0..SIDE * SIDE).map(|i| dot(i / SIDE, i % SIDE)).collect()
}

#[test]
fn warpgroups_multiply_what_descriptors_describe() {
    let want = sum_of_products();
    assert!(always(&run_wgmma("planted_wgmma", false), &want));
    assert!(always(&run_wgmma("planted_wgmma_mn_major", true), &want));
    assert!(!always(&run_wgmma("planted_wgmma_mn_major", false), &want));
}

#[test]
fn warpgroups_multiply_registers() {
    let b = [0, 1].map(|half| tile(|k, column| operand(half, true, column, k)));
    let operands = [tile(|row, k| operand(0, false, row, k)), b.concat()].concat();
    let dot = |row, column: usize| -> f32 {
        let term = |k| operand(0, false, row, k) * operand(column / SIDE, true, column % SIDE, k);
        1.0 + (0..SIDE).map(term).sum::<f32>()
    };
    let want: Vec<_> = (0..2 * SIDE * SIDE).map(|i| dot(i / (2 * SIDE), i % (2 * SIDE))).collect();
    let name = "planted_wgmma_from_registers";
    let kernel = Kernel { file: "planted_hopper", name, threads: 256, shared: 2 * 8192 };
    assert!(always(&run_on(&kernel, &operands, 2 * SIDE * SIDE), &want));
}

#[test]
fn mistakes_with_asynchronous_products_give_wrong_sums() {
    let want = sum_of_products();
    for name in ["planted_wgmma_without_proxy_fence", "planted_wgmma_without_wait"] {
        for (order, result) in ORDERS.zip(run_wgmma(name, false)) {
            assert!(result.unwrap().iter().all(|sum| sum.is_nan()), "order {order} hides {name}");
        }
    }
    for name in ["planted_wgmma_with_wrong_swizzle", "planted_wgmma_with_wrong_stride"] {
        for (order, result) in ORDERS.zip(run_wgmma(name, false)) {
            assert!(result.unwrap() != want, "order {order} hides {name}");
        }
    }
}

#[test]
fn mistakes_with_asynchronous_products_are_reported() {
    for (name, reason) in [
        ("planted_wgmma_without_fence", "no fence before it"),
        ("planted_wgmma_with_touched_accumulators", "written while an MMA computes them"),
        ("planted_wgmma_with_too_few_bytes", "wait for what never comes"),
        ("planted_wgmma_without_barrier_fence", "not fenced after it was initialised"),
    ] {
        for (order, result) in ORDERS.zip(run_wgmma(name, false)) {
            let message = result.expect_err(name).to_string();
            assert!(message.contains(name) && message.contains(reason), "order {order}: {message}");
        }
    }
    // These may be seen in several ways, but always are.
    let want = sum_of_products();
    for name in ["planted_wgmma_overwritten_early", "planted_wgmma_released_early", "planted_wgmma_with_wrong_parity"] {
        for (order, result) in ORDERS.zip(run_wgmma(name, false)) {
            assert!(result.is_err() || result.unwrap() != want, "order {order} hides {name}");
        }
    }
}

#[test]
fn a_launch_that_does_not_fit_its_kernel_is_refused() {
    let refused = |kernel: &Kernel, grid| {
        let device = Emulator::with_memory(1 << 20);
        let message = device.launch(kernel, grid, &PlantedArgs { x: 0, out: 0 }).unwrap_err().to_string();
        assert!(message.contains(kernel.name), "{message}");
    };
    refused(&kernel("no_such_kernel", 0), [1, 1, 1]);
    refused(&kernel("planted_reverse", REVERSE_SHARED + 4), [1, 1, 1]);
    refused(&Kernel { threads: 64, ..kernel("planted_reverse", REVERSE_SHARED) }, [1, 1, 1]);
    refused(&kernel("planted_reverse", REVERSE_SHARED), [1, 65_536, 1]);
    refused(&kernel("planted_reverse", REVERSE_SHARED), [0, 1, 1]);

    #[derive(Clone, Copy, PartialEq)]
    #[repr(C)]
    struct Short(Address);
    // SAFETY: it fits no kernel, which is what is tested.
    unsafe impl Args for Short {}
    let result =
        Emulator::with_memory(1 << 20).launch(&kernel("planted_reverse", REVERSE_SHARED), [1, 1, 1], &Short(0));
    assert!(result.unwrap_err().to_string().contains("bytes of arguments"));
}

#[test]
fn memory_ends() {
    let device = Emulator::with_memory(1000);
    let held = device.allocate(600).unwrap();
    let Err(Error::NoSpace { needed, available }) = device.allocate(500) else { panic!("500 bytes of 400") };
    assert_eq!((needed, available), (500, 400));
    device.free(held, 600);
    let all = device.allocate(1000).unwrap();
    device.free(all, 1000);
    assert_eq!(device.used(), 0);
}
