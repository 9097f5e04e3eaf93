// SPDX-License-Identifier: MPL-2.0

//! The emulated GPU sees the mistakes that a real one would punish at random. `kernels/emulator/planted.cpp` makes them.

#![cfg(feature = "emulator")]

use gstflashvsr::Error;
use gstflashvsr::backend::cuda::driver::{Address, Args, Kernel, Memory, Queue};
use gstflashvsr::backend::cuda::emulator::Emulator;

const THREADS: u32 = 128;
const REVERSE_SHARED: u32 = 4 * THREADS;
const ADD_SHARED: u32 = 2 * 16 * THREADS;
/// Orders of the threads that are tried: in their numbers' order, and some others.
const ORDERS: std::ops::Range<u64> = 0..20;

#[derive(Clone, Copy)]
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
    let device = Emulator::with_memory(1 << 20);
    let (x, out) = (device.allocate(4 * inputs).unwrap(), device.allocate(4 * outputs).unwrap());
    let values: Vec<u8> = (0..inputs).flat_map(|i| (i as f32).to_le_bytes()).collect();
    device.upload(x, &values).unwrap();
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
    device.free(x, 4 * inputs);
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

    #[derive(Clone, Copy)]
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
