// SPDX-License-Identifier: MPL-2.0

//! What the engine wants of a driver: memory, kernels, and queues of work. Two do it: CUDA's, and the emulator that runs the
//! same kernels on the CPU.

use super::Precision;
use crate::error::Result;

/// An address in device memory.
pub type Address = u64;

/// Alignment of every allocation in bytes.
pub const ALIGNMENT: usize = 256;

/// A kernel of `kernels/`, and what a launch of it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file of `kernels/` that defines it, without `.cu`.
    pub file: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: u32,
}

/// The kernels `name_f32`, `name_bf16` and `name_f16`, in the order of [`super::Precision`]. `shared` are the bytes of shared
/// memory of each.
macro_rules! kernels {
    ($file:literal, $name:literal, $threads:expr, $shared:expr) => {{
        let shared: [u32; 3] = $shared;
        let (file, threads) = ($file, $threads);
        [
            $crate::backend::cuda::driver::Kernel { file, name: concat!($name, "_f32"), threads, shared: shared[0] },
            $crate::backend::cuda::driver::Kernel { file, name: concat!($name, "_bf16"), threads, shared: shared[1] },
            $crate::backend::cuda::driver::Kernel { file, name: concat!($name, "_f16"), threads, shared: shared[2] },
        ]
    }};
}
pub(super) use kernels;

/// The argument of a kernel.
///
/// # Safety
/// The type must be `repr(C)`, laid out as the kernel's struct of arguments, and hold no pointers but [`Address`]es. What is
/// equal must mean the same to the kernel.
pub unsafe trait Args: Copy + PartialEq + Send + Sync + 'static {}

/// Device memory that can be had and given back.
pub trait Memory: Send + Sync + 'static {
    /// `bytes` of memory, aligned to [`ALIGNMENT`].
    ///
    /// # Errors
    /// [`crate::Error::NoSpace`] if there is not so much.
    fn allocate(&self, bytes: usize) -> Result<Address>;

    /// Gives back what [`Memory::allocate`] gave, once the work that uses it is done.
    fn free(&self, address: Address, bytes: usize);

    /// Bytes that are free, and all bytes.
    fn bytes(&self) -> Result<(u64, u64)>;
}

/// Whose tensor cores kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TensorCores {
    /// A warp's, from registers (`mma.sync`): every GPU since Ampere.
    #[default]
    Warp,
    /// Those of four warps together, from shared memory (`wgmma`): Hopper only. Kernels for them are in files whose names
    /// begin with `hopper_`.
    Warpgroup,
}

/// The GEMM of a linear layer, in 16 bits with accumulators in f32, as a library may do it:
/// `out = x * weights^T + bias`, then GELU in its tanh form, or a residual added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    /// Values `[rows][inputs]`.
    pub x: Address,
    /// Values `[columns][depth]`, of which the first `inputs` of a column count.
    pub weights: Address,
    /// One value per column.
    pub bias: Address,
    /// Values `[rows][columns]`, or 0 for none.
    pub residual: Address,
    /// Values `[rows][columns]`.
    pub out: Address,
    /// Rows of `x`.
    pub rows: usize,
    /// Outputs of the layer.
    pub columns: usize,
    /// Inputs of the layer.
    pub inputs: usize,
    /// Values from one column's weights to the next's.
    pub depth: usize,
    /// Whether the result goes through GELU.
    pub gelu: bool,
    /// The type of all values.
    pub precision: Precision,
    /// Memory for the library's own use while the GEMM is computed, and its bytes.
    pub workspace: (Address, usize),
}

/// A device.
pub trait Driver: Memory {
    /// A queue of work.
    type Queue: Queue;

    /// Its name and number in words ("NVIDIA H200 (cuda:0)").
    fn name(&self) -> String;

    /// The best that it has.
    fn tensor_cores(&self) -> TensorCores;

    /// The number of its multiprocessors (SMs), each of which runs blocks of its own.
    fn sm_count(&self) -> usize;

    /// What has come up that the user ought to know; each is told once.
    fn notice(&self) -> Option<String> {
        None
    }

    /// The library that does GEMMs here ([`Queue::gemm`]), in words, if there is one.
    fn library(&self) -> Option<String> {
        None
    }

    /// A new queue.
    fn queue(&self) -> Result<Self::Queue>;
}

/// Work that is done in the order in which it was given. Nothing here waits for the device unless it says so. An error of
/// earlier work may be reported by any later call.
pub trait Queue: Send + Sync + 'static {
    /// A copy to the host that is under way. Dropping it waits for it.
    type Download: Send + 'static;

    /// Copies `from` to device memory. `from` may be changed as soon as this returns.
    fn upload(&self, to: Address, from: &[u8]) -> Result<()>;

    /// Waits for all work so far, then copies device memory to the host.
    fn download(&self, to: &mut [u8], from: Address) -> Result<()>;

    /// Begins to copy `bytes` of device memory to the host, behind all work so far. Later work does not wait for the copy: the
    /// memory must stay as it is until [`Queue::finish_download`], or until what this gives is dropped.
    fn start_download(&self, from: Address, bytes: usize) -> Result<Self::Download>;

    /// Waits for a copy and calls `read` with what it brought.
    fn finish_download(&self, download: Self::Download, read: &mut dyn FnMut(&[u8])) -> Result<()>;

    /// Sets every one of `bytes` to `value`.
    fn fill(&self, to: Address, value: u8, bytes: usize) -> Result<()>;

    /// Runs a kernel in `grid` blocks. It may be kept back until something else is asked of the queue, or the queue is dropped.
    fn launch<A: Args>(&self, kernel: &Kernel, grid: [u32; 3], args: &A) -> Result<()>;

    /// Has a library do a GEMM. If there is none, or it declines, this is false and nothing was done.
    fn gemm(&self, _: &Gemm) -> Result<bool> {
        Ok(false)
    }

    /// Waits for all work so far, but for copies to the host.
    fn wait(&self) -> Result<()>;
}
