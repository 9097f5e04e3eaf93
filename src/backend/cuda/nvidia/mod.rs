// SPDX-License-Identifier: MPL-2.0

//! NVIDIA's GPUs: CUDA's driver, which is opened at run time, and the kernels that this crate brings. A user needs the
//! driver and nothing else of CUDA; without it, [`Nvidia::open`] says so.

mod cubins;
mod cublas_lt;
mod device;
mod fault;
mod graph;
mod launches;
mod queue;
mod staging;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cudarc::driver::sys::{self, CUresult};

use super::driver::{Address, Driver, Memory, TensorCores};
use crate::error::{Error, Result};

use cublas_lt::CublasLt;
use device::Device;
use launches::AllLaunches;
pub use queue::NvidiaQueue;

/// A GPU of NVIDIA's.
#[derive(Clone)]
pub struct Nvidia {
    device: Arc<Device>,
    tensor_cores: TensorCores,
    graphs: bool,
    launches: Arc<AllLaunches>,
    library: Option<Arc<CublasLt>>,
    /// Whether it was asked for in vain and nobody has been told.
    library_missing: Arc<AtomicBool>,
}

impl Nvidia {
    /// How many GPUs there are; none if there is no driver.
    ///
    /// # Errors
    /// If there is a driver that does not work.
    pub fn count() -> Result<usize> {
        Ok(device::count()?.unsigned_abs() as usize)
    }

    /// The GPU of this number, as `nvidia-smi` counts unless `CUDA_VISIBLE_DEVICES` or `CUDA_DEVICE_ORDER` say
    /// otherwise.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no driver, no such GPU, or if it is too old.
    pub fn open(ordinal: usize) -> Result<Self> {
        let device = Arc::new(Device::open(ordinal)?);
        let tensor_cores = match device.capability() {
            (9, 0) => TensorCores::Warpgroup,
            _ => TensorCores::Warp,
        };
        let (launches, library_missing) = (Arc::default(), Arc::default());
        Ok(Self { device, tensor_cores, graphs: true, launches, library: None, library_missing })
    }

    /// The same GPU with NVIDIA's library cuBLASLt for the linear layers of which it is faster, if the library is there; if it
    /// is not, [`Driver::notice`] says so.
    pub fn with_library(self) -> Self {
        let library = CublasLt::open(&self.device).map(Arc::new);
        self.library_missing.store(library.is_none(), Relaxed);
        Self { library, ..self }
    }

    /// The same GPU with those of our kernels alone that run on every generation.
    pub fn with_common_kernels(self) -> Self {
        Self { tensor_cores: TensorCores::Warp, ..self }
    }

    /// The same GPU with each kernel launched at once and by itself, and no graphs of them.
    pub fn without_graphs(self) -> Self {
        Self { graphs: false, ..self }
    }

    /// The compute capability, such as (9, 0) of an H200.
    pub fn capability(&self) -> (u32, u32) {
        self.device.capability()
    }
}

impl Memory for Nvidia {
    fn allocate(&self, bytes: usize) -> Result<Address> {
        self.device.bind()?;
        let mut address = 0;
        // SAFETY: the driver writes one address. It aligns memory to 256 bytes (CUDA C++ Programming Guide, section
        // "Size and Alignment Requirement").
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(1)) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let available = self.bytes().map_or(0, |(free, _)| free);
                Err(Error::NoSpace { needed: bytes as u64, available })
            }
            code => self.device.check(format_args!("cuMemAlloc of {bytes} bytes"), code).map(|()| address),
        }
    }

    fn free(&self, address: Address, _bytes: usize) {
        // After a fault of the device there is nothing to be had back.
        if self.device.bind().is_ok() {
            self.launches.flush();
            // SAFETY: `allocate` gave it; the driver waits for work that uses it, none of which is kept back.
            unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn bytes(&self) -> Result<(u64, u64)> {
        self.device.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two integers.
        self.device.check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
        Ok((free as u64, total as u64))
    }
}

impl Driver for Nvidia {
    type Queue = NvidiaQueue;

    fn name(&self) -> String {
        self.device.name().into()
    }

    fn tensor_cores(&self) -> TensorCores {
        self.tensor_cores
    }

    fn sm_count(&self) -> usize {
        self.device.sm_count()
    }

    fn notice(&self) -> Option<String> {
        let no_library = || {
            let text = "the library cuBLASLt, which FLASHVSR_KERNELS=library asks for, is not found; it comes with the CUDA \
                        toolkit, or name its folder in LD_LIBRARY_PATH; until then our own kernels do its work";
            self.library_missing.swap(false, Relaxed).then(|| text.into())
        };
        self.device.notice().or_else(no_library)
    }

    fn library(&self) -> Option<String> {
        self.library.as_ref().map(|library| library.name())
    }

    fn queue(&self) -> Result<NvidiaQueue> {
        let batching = self.graphs && self.device.has_graphs();
        NvidiaQueue::new(self.device.clone(), batching, &self.launches, self.library.clone())
    }
}
