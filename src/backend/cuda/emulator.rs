// SPDX-License-Identifier: MPL-2.0

//! The kernels on the CPU: the driver of a device whose blocks run as fibers on the threads of the host. It is slow and
//! strict: it exists to prove the engine where there is no GPU.

mod blas;

use std::alloc::{Layout, alloc, dealloc};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rayon::prelude::*;

use super::driver::{ALIGNMENT, Address, Args, Driver, Gemm, Kernel, Memory, Queue, TensorCores};
use crate::error::{Error, Result};

/// `emulator::Kernel` of scheduler.h.
#[repr(C)]
struct Entry {
    name: *const c_char,
    threads: u32,
    shared_bytes: usize,
    args_bytes: usize,
    body: *const c_void,
}

unsafe extern "C" {
    fn flashvsr_emulator_find(name: *const c_char) -> *const Entry;
    fn flashvsr_emulator_run(
        kernel: *const Entry,
        index: *const [u32; 3],
        args: *const c_void,
        seed: u64,
    ) -> *const c_char;
}

// SAFETY: an entry is constant data and a function.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

#[derive(Default)]
struct State {
    found: Mutex<HashMap<&'static str, &'static Entry>>,
    /// Allocations, so that none is given back that was not given.
    live: Mutex<HashMap<Address, usize>>,
    used: AtomicUsize,
    /// Seed of the order of threads; 0 for their numbers' order.
    seed: AtomicU64,
}

/// An emulated GPU.
#[derive(Clone)]
pub struct Emulator {
    state: Arc<State>,
    capacity: usize,
    tensor_cores: TensorCores,
    library: bool,
}

impl Default for Emulator {
    fn default() -> Self {
        Self::with_memory(8 << 30)
    }
}

impl Emulator {
    /// A device with `capacity` bytes of memory.
    pub fn with_memory(capacity: usize) -> Self {
        Self { state: Arc::default(), capacity, tensor_cores: TensorCores::Warp, library: false }
    }

    /// The same device with these tensor cores.
    pub fn with_tensor_cores(self, tensor_cores: TensorCores) -> Self {
        Self { tensor_cores, ..self }
    }

    /// The same device with a library that multiplies.
    pub fn with_library(self) -> Self {
        Self { library: true, ..self }
    }

    /// From now on, threads run in an order drawn from `seed` (0: in the order of their numbers).
    pub fn shuffle_threads(&self, seed: u64) {
        self.state.seed.store(seed, Relaxed);
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> usize {
        self.state.used.load(Relaxed)
    }

    fn find(&self, kernel: &Kernel) -> Result<&'static Entry> {
        if let Some(found) = self.state.found.lock().get(kernel.name) {
            return Ok(*found);
        }
        let name = CString::new(kernel.name).map_err(|e| Error::Compute(e.to_string()))?;
        // SAFETY: `name` is a C string; what comes back is null or an entry that is never removed.
        let entry = unsafe { flashvsr_emulator_find(name.as_ptr()).as_ref() };
        let entry = entry.ok_or_else(|| Error::Compute(format!("no kernel {}", kernel.name)))?;
        if (entry.threads, entry.shared_bytes) != (kernel.threads, kernel.shared as usize) {
            return Err(Error::Compute(format!(
                "kernel {} has {} threads and {} bytes of shared memory, launched with {} and {}",
                kernel.name, entry.threads, entry.shared_bytes, kernel.threads, kernel.shared
            )));
        }
        self.state.found.lock().insert(kernel.name, entry);
        Ok(entry)
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), ALIGNMENT).unwrap_or(Layout::new::<u8>())
}

impl Memory for Emulator {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        let (needed, available) = (bytes as u64, (self.capacity - self.used().min(self.capacity)) as u64);
        let no_space = Error::NoSpace { needed, available };
        if needed > available {
            return Err(no_space);
        }
        // SAFETY: the layout has a size above 0.
        let Some(memory) = NonNull::new(unsafe { alloc(layout(bytes)) }) else {
            return Err(no_space);
        };
        // SAFETY: the memory is `bytes` long and ours. Bytes of 0xff are NaN in every type: what nobody wrote is seen.
        unsafe { memory.write_bytes(0xff, bytes) };
        let address = memory.as_ptr() as Address;
        self.state.live.lock().insert(address, bytes);
        self.state.used.fetch_add(bytes, Relaxed);
        Ok(address)
    }

    fn free(&self, address: Address, bytes: usize) {
        let known = self.state.live.lock().remove(&address);
        assert_eq!(known, Some(bytes), "memory is given back as it was given");
        self.state.used.fetch_sub(bytes, Relaxed);
        // SAFETY: `allocate` gave it with this layout, and it was not given back before.
        unsafe { dealloc(address as *mut u8, layout(bytes)) };
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        Ok(((self.capacity - self.used().min(self.capacity)) as u64, self.capacity as u64))
    }
}

impl Driver for Emulator {
    type Queue = Self;

    fn name(&self) -> String {
        "emulated GPU".into()
    }

    fn tensor_cores(&self) -> TensorCores {
        self.tensor_cores
    }

    /// Few, so that blocks that stay for several pieces of work do so in tests.
    fn sm_count(&self) -> usize {
        3
    }

    fn library(&self) -> Option<String> {
        self.library.then(|| "the emulator's library".into())
    }

    fn queue(&self) -> Result<Self> {
        Ok(self.clone())
    }
}

impl Queue for Emulator {
    type Download = Vec<u8>;

    fn start_download(&self, from: Address, bytes: usize) -> Result<Vec<u8>> {
        let mut copy = vec![0; bytes];
        self.download(&mut copy, from)?;
        Ok(copy)
    }

    fn finish_download(&self, download: Vec<u8>, read: &mut dyn FnMut(&[u8])) -> Result<()> {
        read(&download);
        Ok(())
    }

    fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        // SAFETY: the engine uploads into memory that it has allocated.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to as *mut u8, from.len()) };
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        // SAFETY: the engine downloads from memory that it has allocated.
        unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn fill(&self, to: Address, value: u8, bytes: usize) -> Result<()> {
        // SAFETY: the engine fills memory that it has allocated.
        unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) };
        Ok(())
    }

    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()> {
        let entry = self.find(kernel)?;
        if entry.args_bytes != size_of::<A>() {
            return Err(Error::Compute(format!(
                "kernel {} takes {} bytes of arguments, launched with {}",
                kernel.name,
                entry.args_bytes,
                size_of::<A>()
            )));
        }
        if grid.contains(&0) || grid[1] > 65_535 || grid[2] > 65_535 {
            return Err(Error::Compute(format!("kernel {}: no GPU takes a grid of {grid:?}", kernel.name)));
        }
        let fault = OnceLock::new();
        let seed = self.state.seed.load(Relaxed);
        let [columns, rows, layers] = grid.map(u64::from);
        (0..columns * rows * layers).into_par_iter().for_each(|i| {
            let index = [(i % columns) as u32, (i / columns % rows) as u32, (i / columns / rows) as u32];
            let seed = if seed == 0 { 0 } else { (seed ^ i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1 };
            // SAFETY: the arguments have the size that the kernel takes, and `Args` promises its layout.
            let said = unsafe { flashvsr_emulator_run(entry, &raw const index, std::ptr::from_ref(args).cast(), seed) };
            if !said.is_null() {
                // SAFETY: it is a C string that stays.
                let said = unsafe { CStr::from_ptr(said) };
                fault.get_or_init(|| format!("kernel {}: {}", kernel.name, said.to_string_lossy()));
            }
        });
        fault.into_inner().map_or(Ok(()), |fault| Err(Error::Compute(fault)))
    }

    fn gemm(&self, gemm: &Gemm) -> Result<bool> {
        if self.library {
            blas::gemm(gemm);
        }
        Ok(self.library)
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }
}
