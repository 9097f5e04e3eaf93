// SPDX-License-Identifier: MPL-2.0

//! A device, its context, and the kernels that are loaded there.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int, c_void};
use std::fmt::Display;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUfunction, CUfunction_attribute, CUjit_option, CUmodule, CUresult,
};
use parking_lot::RwLock;

use super::cubins;
use super::fault::{check, refuse};
use crate::backend::cuda::driver::Kernel;
use crate::error::{Error, Result};

/// The oldest driver that takes the kernels: CUDA 12.0.
const OLDEST_DRIVER: c_int = 12_000;

/// Bytes of shared memory that a block gets without asking.
const SHARED_BY_DEFAULT: u32 = 48 << 10;

/// Bytes for what the driver's compiler has to say.
const LOG_BYTES: usize = 4096;

/// What was loaded stays until the device is dropped.
#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, CUmodule>,
    functions: HashMap<Kernel, CUfunction>,
}

/// A device with its primary context, the one that the CUDA runtime, and so other libraries, use as well.
pub(super) struct Device {
    name: String,
    handle: CUdevice,
    context: CUcontext,
    capability: (u32, u32),
    sm_count: u32,
    /// Bytes of shared memory that a block can have.
    shared: u32,
    loaded: RwLock<Loaded>,
    /// Why there are no graphs, and whether the user has been notified.
    no_graphs: OnceLock<String>,
    notified: AtomicBool,
}

// SAFETY: the driver's handles may be used by any thread that has bound the context, which each call does.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Device {}

/// How many devices there are; none if there is no driver.
pub(super) fn count() -> Result<c_int> {
    // SAFETY: this runs the initialisation of NVIDIA's library, if there is one, which other programs do as well.
    if !unsafe { sys::is_culib_present() } {
        return Ok(0);
    }
    let driver = "NVIDIA's driver";
    let mut version = 0;
    // SAFETY: the library is there; it writes one integer.
    check(driver, "cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return refuse(driver, format!("it is made for CUDA {major}.{minor}, too old; update it to 525 or later"));
    }
    // SAFETY: the library is there; 0 is the only value that it takes.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_ERROR_NO_DEVICE => return Ok(0),
        code => check(driver, "cuInit", code)?,
    }
    let mut count = 0;
    // SAFETY: the driver is initialised; it writes one integer.
    check(driver, "cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    Ok(count)
}

impl Device {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let place = format!("cuda:{ordinal}");
        let count = count()?;
        let index = match c_int::try_from(ordinal) {
            Ok(index) if index < count => index,
            _ => return refuse(&place, absent(count)),
        };
        let mut handle = 0;
        // SAFETY: the driver is initialised; it writes one integer.
        check(&place, "cuDeviceGet", unsafe { sys::cuDeviceGet(&mut handle, index) })?;
        let mut text: [c_char; 128] = [0; 128];
        // SAFETY: the driver writes a C string of at most the given length.
        check(&place, "cuDeviceGetName", unsafe { sys::cuDeviceGetName(text.as_mut_ptr(), 128, handle) })?;
        let text: Vec<u8> = text.iter().map(|c| *c as u8).take_while(|c| *c != 0).collect();
        let name = format!("{} ({place})", String::from_utf8_lossy(&text));
        let attribute = |attribute| {
            let mut value: c_int = 0;
            // SAFETY: the device exists; the driver writes one integer.
            let code = unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, handle) };
            check(&name, "cuDeviceGetAttribute", code).map(|()| value.unsigned_abs())
        };
        let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let sm_count = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        if (major, minor) < cubins::OLDEST {
            let reason = format!(
                "its compute capability is {major}.{minor}, and 8.0 is the least: a card of the Ampere generation (A100, \
                 GeForce RTX 30) or later; take such a card, or set device=cpu"
            );
            return refuse(&name, reason);
        }
        let mut context = ptr::null_mut();
        // SAFETY: the device exists; the driver writes one pointer. Dropping the device releases the context.
        check(&name, "cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, handle) })?;
        let capability = (major, minor);
        let (loaded, no_graphs, notified) = (RwLock::default(), OnceLock::new(), AtomicBool::new(false));
        Ok(Self { name, handle, context, capability, sm_count, shared, loaded, no_graphs, notified })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn capability(&self) -> (u32, u32) {
        self.capability
    }

    pub(super) fn sm_count(&self) -> usize {
        self.sm_count as usize
    }

    /// Makes this thread's calls go to the device. Every call needs it, since other libraries of the process may have
    /// bound another context to the thread; it costs some ten nanoseconds.
    pub(super) fn bind(&self) -> Result<()> {
        // SAFETY: the context is retained as long as `self` lives.
        self.check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Whether graphs of launches can be made, as far as is known.
    pub(super) fn has_graphs(&self) -> bool {
        self.no_graphs.get().is_none()
    }

    /// Remembers that they cannot.
    pub(super) fn refuse_graphs(&self, error: &Error) {
        self.no_graphs
            .get_or_init(|| format!("kernels are launched one by one from now on, for want of graphs: {error}"));
    }

    /// What the user ought to know, once.
    pub(super) fn notice(&self) -> Option<String> {
        self.no_graphs.get().filter(|_| !self.notified.swap(true, Relaxed)).cloned()
    }

    /// The outcome of `call`.
    pub(super) fn check(&self, call: impl Display, code: CUresult) -> Result<()> {
        check(&self.name, call, code)
    }

    /// Binds the device and gives the kernel as it is loaded there.
    pub(super) fn function(&self, kernel: &Kernel) -> Result<CUfunction> {
        self.bind()?;
        if let Some(function) = self.loaded.read().functions.get(kernel) {
            return Ok(*function);
        }
        let mut loaded = self.loaded.write();
        let module = match loaded.modules.get(kernel.file) {
            Some(module) => *module,
            None => {
                let module = self.load(kernel.file)?;
                loaded.modules.insert(kernel.file, module);
                module
            }
        };
        let function = self.find(module, kernel)?;
        loaded.functions.insert(*kernel, function);
        Ok(function)
    }

    /// Loads the kernels of a file.
    fn load(&self, file: &str) -> Result<CUmodule> {
        let cubin = cubins::find(file, self.capability)?;
        let bytes = cubin.unpack()?;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG_BYTES - 1)];
        let mut module = ptr::null_mut();
        // SAFETY: the cubin is an ELF file, or PTX that ends with a zero, and the driver keeps nothing of it; it writes one
        // pointer and at most LOG_BYTES - 1 bytes of text.
        let code = unsafe {
            sys::cuModuleLoadDataEx(&mut module, bytes.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr())
        };
        let log: Vec<u8> = log.into_iter().take_while(|c| *c != 0).collect();
        let call = format!("cuModuleLoadData of {}", cubin.name());
        match self.check(call, code) {
            Err(Error::Device { device, reason }) if !log.is_empty() => {
                refuse(&device, format!("{reason}: {}", String::from_utf8_lossy(&log).trim()))
            }
            outcome => outcome.map(|()| module),
        }
    }

    /// Finds a kernel and gets it the shared memory that it needs.
    fn find(&self, module: CUmodule, kernel: &Kernel) -> Result<CUfunction> {
        let name = CString::new(kernel.name).map_err(|e| Error::Compute(e.to_string()))?;
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, the name is a C string; the driver writes one pointer.
        let code = unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) };
        self.check(format_args!("cuModuleGetFunction of {}", kernel.name), code)?;
        let attribute = |attribute| {
            let mut value: c_int = 0;
            // SAFETY: the function is loaded; the driver writes one integer.
            let code = unsafe { sys::cuFuncGetAttribute(&mut value, attribute, function) };
            self.check(format_args!("cuFuncGetAttribute of {}", kernel.name), code).map(|()| value.unsigned_abs())
        };
        let threads = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        if kernel.threads > threads {
            let reason = format!("kernel {} takes {threads} threads, not {}", kernel.name, kernel.threads);
            return refuse(&self.name, reason);
        }
        let fixed = attribute(CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let needed = kernel.shared.saturating_add(fixed);
        if needed > self.shared {
            let reason = format!(
                "kernel {} needs {needed} bytes of shared memory in a block, and the device has {}",
                kernel.name, self.shared
            );
            return refuse(&self.name, reason);
        }
        if needed > SHARED_BY_DEFAULT {
            let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            let code = unsafe { sys::cuFuncSetAttribute(function, limit, kernel.shared.cast_signed()) };
            self.check(format_args!("cuFuncSetAttribute of {}", kernel.name), code)?;
        }
        Ok(function)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What fails here fails because the device or the process is going away.
        if self.bind().is_ok() {
            for module in self.loaded.get_mut().modules.values() {
                // SAFETY: it was loaded and is not used again: whoever launches holds the device.
                unsafe { sys::cuModuleUnload(*module) };
            }
        }
        // SAFETY: it was retained once.
        unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.handle) };
    }
}

/// Why there is no such device among `count`.
fn absent(count: c_int) -> String {
    // SAFETY: as in `count`.
    if !unsafe { sys::is_culib_present() } {
        return "no NVIDIA driver: its library libcuda.so.1 is not there; install NVIDIA's driver, or set device=cpu"
            .into();
    }
    match count {
        0 => {
            "NVIDIA's driver finds no GPU; see what nvidia-smi says and whether CUDA_VISIBLE_DEVICES hides it, or set \
              device=cpu"
                .into()
        }
        1 => "there is only one GPU, cuda:0".into(),
        _ => format!("there are only {count} GPUs, cuda:0 to cuda:{}", count - 1),
    }
}
