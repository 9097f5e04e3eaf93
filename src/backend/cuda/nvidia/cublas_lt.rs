// SPDX-License-Identifier: MPL-2.0

//! cuBLASLt, NVIDIA's library of GEMMs: used where it is there and faster, never needed.
//!
//! It sees matrices in column-major order. So our rows are its columns, the result is `weights * x` there, and the weights,
//! stored column by column, are transposed (cuBLAS documentation, sections "cublasLtMatmul" and "cublasLtOrder_t").

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::sys::{
    self, cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDescAttributes_t as Attribute, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreferenceAttributes_t,
    cublasStatus_t, cudaDataType,
};
use cudarc::driver::sys::CUstream;
use parking_lot::Mutex;

use super::device::Device;
use super::fault::refuse;
use crate::backend::cuda::Precision;
use crate::backend::cuda::driver::Gemm;
use crate::error::Result;

/// The oldest version that is asked, 12.0: as the driver.
const OLDEST: usize = 120_000;

/// `CUBLAS_OP_T` (cuBLAS documentation, section "cublasOperation_t").
const TRANSPOSED: i32 = 1;

/// What is used of the library.
const FUNCTIONS: [&[u8]; 13] = [
    b"cublasLtCreate",
    b"cublasLtDestroy",
    b"cublasLtGetVersion",
    b"cublasLtMatmul",
    b"cublasLtMatmulAlgoGetHeuristic",
    b"cublasLtMatmulDescCreate",
    b"cublasLtMatmulDescDestroy",
    b"cublasLtMatmulDescSetAttribute",
    b"cublasLtMatmulPreferenceCreate",
    b"cublasLtMatmulPreferenceDestroy",
    b"cublasLtMatmulPreferenceSetAttribute",
    b"cublasLtMatrixLayoutCreate",
    b"cublasLtMatrixLayoutDestroy",
];

/// Something of the library's that is to be destroyed.
struct Owned<T> {
    thing: *mut T,
    destroy: unsafe fn(*mut T) -> cublasStatus_t,
}

// SAFETY: the library's descriptions are memory that belongs to whoever holds them.
unsafe impl<T> Send for Owned<T> {}

impl<T> Owned<T> {
    /// What `create` writes.
    fn new(
        create: impl FnOnce(&mut *mut T) -> cublasStatus_t,
        destroy: unsafe fn(*mut T) -> cublasStatus_t,
    ) -> Result<Self, cublasStatus_t> {
        let mut thing = ptr::null_mut();
        accepted(create(&mut thing))?;
        Ok(Self { thing, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it was created and is not used again.
        unsafe { (self.destroy)(self.thing) };
    }
}

type Operation = Owned<sys::cublasLtMatmulDescOpaque_t>;
type Matrix = Owned<sys::cublasLtMatrixLayoutOpaque_t>;

/// What the library's way to compute a GEMM depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    columns: usize,
    inputs: usize,
    depth: usize,
    gelu: bool,
    precision: Precision,
    workspace: usize,
}

impl Shape {
    fn of(gemm: &Gemm) -> Self {
        let &Gemm { rows, columns, inputs, depth, gelu, precision, workspace, .. } = gemm;
        Self { rows, columns, inputs, depth, gelu, precision, workspace: workspace.1 }
    }
}

/// GEMMs of one shape, described, and how the library computes them.
struct Prepared {
    operation: Operation,
    weights: Matrix,
    x: Matrix,
    out: Matrix,
    algorithm: cublasLtMatmulAlgo_t,
}

/// The library on a device.
pub(super) struct CublasLt {
    device: Arc<Device>,
    handle: cublasLtHandle_t,
    version: usize,
    /// Nothing where it declines.
    prepared: Mutex<HashMap<Shape, Option<Prepared>>>,
}

// SAFETY: its handle may be used by several threads at a time (cuBLAS documentation, section "cuBLASLt API Reference").
unsafe impl Send for CublasLt {}
// SAFETY: as above; descriptions are behind a lock.
unsafe impl Sync for CublasLt {}

fn accepted(status: cublasStatus_t) -> Result<(), cublasStatus_t> {
    if status == cublasStatus_t::CUBLAS_STATUS_SUCCESS { Ok(()) } else { Err(status) }
}

/// Whether there is a library with all that is used of it, of a version that is known.
fn present() -> Option<usize> {
    // SAFETY: this loads the library, whose initialisation other programs run as well; functions are looked up, not called,
    // but for the last, which gives a number.
    unsafe {
        let complete = sys::is_culib_present()
            && FUNCTIONS.iter().all(|name| sys::culib().get::<unsafe extern "C" fn()>(*name).is_ok());
        complete.then(|| sys::cublasLtGetVersion()).filter(|version| *version >= OLDEST)
    }
}

impl CublasLt {
    /// The library, if there is one that works on the device.
    pub(super) fn open(device: &Arc<Device>) -> Option<Self> {
        let version = present()?;
        device.bind().ok()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the library is there; it writes one pointer.
        accepted(unsafe { sys::cublasLtCreate(&mut handle) }).ok()?;
        Some(Self { device: device.clone(), handle, version, prepared: Mutex::default() })
    }

    /// Its name and version in words.
    pub(super) fn name(&self) -> String {
        format!("cuBLASLt {}.{}", self.version / 10_000, self.version / 100 % 100)
    }

    /// Queues a GEMM on a stream of the device, which must be bound; false if the library declines.
    pub(super) fn gemm(&self, stream: CUstream, gemm: &Gemm) -> Result<bool> {
        let mut prepared = self.prepared.lock();
        let entry = prepared.entry(Shape::of(gemm)).or_insert_with(|| self.prepare(gemm).ok());
        let Some(way) = entry else {
            return Ok(false);
        };
        match self.queue(way, stream, gemm) {
            Ok(()) => Ok(true),
            Err(
                cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED
                | cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE
                | cublasStatus_t::CUBLAS_STATUS_ARCH_MISMATCH,
            ) => {
                *entry = None;
                Ok(false)
            }
            Err(status) => refuse(self.device.name(), format!("cublasLtMatmul failed; the library says {status:?}")),
        }
    }

    /// Describes GEMMs of the shape of `gemm`, and asks for the best way to compute them.
    fn prepare(&self, gemm: &Gemm) -> Result<Prepared, cublasStatus_t> {
        let &Gemm { rows, columns, inputs, depth, gelu, precision, .. } = gemm;
        let values = match precision {
            Precision::F32 => return Err(cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED),
            Precision::Bf16 => cudaDataType::CUDA_R_16BF,
            Precision::F16 => cudaDataType::CUDA_R_16F,
        };
        let (accumulators, scale) = (cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F);
        // SAFETY: the library is there; it writes one pointer.
        let create = |thing: &mut _| unsafe { sys::cublasLtMatmulDescCreate(thing, accumulators, scale) };
        let operation = Operation::new(create, sys::cublasLtMatmulDescDestroy)?;
        set(&operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        let epilogue = if gelu {
            cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS
        } else {
            cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS
        };
        set(&operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        // What the library can do may depend on the bias's alignment.
        set(&operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &gemm.bias)?;
        let matrix = |rows: usize, columns: usize, pitch: usize| {
            // SAFETY: as above.
            let create = |thing: &mut _| unsafe {
                sys::cublasLtMatrixLayoutCreate(thing, values, rows as u64, columns as u64, pitch as i64)
            };
            Matrix::new(create, sys::cublasLtMatrixLayoutDestroy)
        };
        let (weights, x, out) =
            (matrix(inputs, columns, depth)?, matrix(inputs, rows, inputs)?, matrix(columns, rows, columns)?);
        let algorithm = self.best(&operation, [&weights, &x, &out], gemm.workspace.1)?;
        Ok(Prepared { operation, weights, x, out, algorithm })
    }

    /// The way that the library thinks the fastest.
    fn best(
        &self,
        operation: &Operation,
        [weights, x, out]: [&Matrix; 3],
        workspace: usize,
    ) -> Result<cublasLtMatmulAlgo_t, cublasStatus_t> {
        let limit = cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the library is there; it writes one pointer.
        let create = |thing: &mut _| unsafe { sys::cublasLtMatmulPreferenceCreate(thing) };
        let preference = Owned::new(create, sys::cublasLtMatmulPreferenceDestroy)?;
        let bytes = workspace as u64;
        // SAFETY: the library reads a number of 64 bits.
        accepted(unsafe {
            let value = ptr::from_ref(&bytes).cast();
            sys::cublasLtMatmulPreferenceSetAttribute(preference.thing, limit, value, size_of::<u64>())
        })?;
        let mut found = cublasLtMatmulHeuristicResult_t {
            algo: cublasLtMatmulAlgo_t { data: [0; 8] },
            workspaceSize: 0,
            state: cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
            wavesCount: 0.0,
            reserved: [0; 4],
        };
        let mut count = 0;
        // SAFETY: all descriptions are alive; the library writes at most one result and one integer.
        accepted(unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                operation.thing,
                weights.thing,
                x.thing,
                out.thing,
                out.thing,
                preference.thing,
                1,
                &mut found,
                &mut count,
            )
        })?;
        if count == 0 {
            return Err(cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED);
        }
        accepted(found.state)?;
        Ok(found.algo)
    }

    fn queue(&self, way: &Prepared, stream: CUstream, gemm: &Gemm) -> Result<(), cublasStatus_t> {
        set(&way.operation, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &gemm.bias)?;
        let at = |address: u64| address as usize as *const c_void;
        let (one, added) = (1.0f32, if gemm.residual == 0 { 0.0f32 } else { 1.0 });
        // Where nothing is added, what is to be added is not read, but must be an address.
        let residual = if gemm.residual == 0 { gemm.out } else { gemm.residual };
        // SAFETY: all descriptions are alive, and the engine multiplies in memory that it has allocated for matrices of
        // these sizes; the library copies the factors before it returns.
        accepted(unsafe {
            sys::cublasLtMatmul(
                self.handle,
                way.operation.thing,
                ptr::from_ref(&one).cast(),
                at(gemm.weights),
                way.weights.thing,
                at(gemm.x),
                way.x.thing,
                ptr::from_ref(&added).cast(),
                at(residual),
                way.out.thing,
                at(gemm.out).cast_mut(),
                way.out.thing,
                &way.algorithm,
                at(gemm.workspace.0).cast_mut(),
                gemm.workspace.1,
                stream.cast(),
            )
        })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if self.device.bind().is_ok() {
            // SAFETY: it was created, and this is its last use.
            unsafe { sys::cublasLtDestroy(self.handle) };
        }
    }
}

/// Sets a part of a description.
fn set<T: Copy>(operation: &Operation, attribute: Attribute, value: &T) -> Result<(), cublasStatus_t> {
    // SAFETY: the description is alive; the library reads as many bytes as the value has.
    accepted(unsafe {
        sys::cublasLtMatmulDescSetAttribute(operation.thing, attribute, ptr::from_ref(value).cast(), size_of::<T>())
    })
}
