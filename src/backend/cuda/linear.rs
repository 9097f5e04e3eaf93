// SPDX-License-Identifier: MPL-2.0

//! Linear layers: `kernels/linear.cu`.

use super::autotune::WORKSPACE_BYTES;
use super::driver::{Address, Args, Driver, Gemm, Queue, kernels};
use super::gemm::{HOPPER_THREADS, Packed, THREADS, Tile};
use super::packing::{Sizes, Taps};
use super::{CudaBackend, CudaTensor, Kernels, Precision, Weight, index};
use crate::backend::parameter::flat_values;
use crate::backend::{Epilogue, HostTensor, Parameter};
use crate::error::{Error, Result};

const LINEAR: [Kernels; 6] = [
    kernels!("linear", "linear_wide", THREADS, Tile::T128X128_SHARED),
    kernels!("linear", "linear_middle", THREADS, Tile::T128X64_SHARED),
    kernels!("linear", "linear_narrow", THREADS, Tile::T256X16_SHARED),
    kernels!("linear", "linear_odd", THREADS, Tile::T128X64_SHARED),
    kernels!("hopper_linear", "hopper_linear_wide", HOPPER_THREADS, Tile::T128X256_SHARED),
    kernels!("hopper_linear", "hopper_linear_tall", HOPPER_THREADS, Tile::T256X128_SHARED),
];

/// `LinearArgs` of linear.cuh.
#[derive(Clone, Copy, PartialEq)]
#[repr(C)]
struct LinearArgs {
    x: Address,
    weights: Address,
    bias: Address,
    residual: Address,
    gate: Address,
    out: Address,
    rows: u32,
    columns: u32,
    inputs: u32,
    depth: u32,
    activation: u32,
    blocks: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for LinearArgs {}

/// A linear layer.
pub struct CudaLinear {
    packed: Packed,
    /// The gate, one value per column.
    gate: Option<Weight>,
    /// The bias for the library's GEMMs, which is of the same type as the other values: one value per column.
    library_bias: Option<Weight>,
}

impl<D: Driver> CudaBackend<D> {
    pub(super) fn linear_layer(
        &self,
        weight: &Parameter<'_>,
        bias: Option<&HostTensor>,
        gate: Option<&HostTensor>,
    ) -> Result<CudaLinear> {
        let [outputs, inputs] = weight.dims()?;
        let (bias, gate) = (bias.map(flat_values).transpose()?, gate.map(flat_values).transpose()?);
        let sizes = Sizes { matrices: 1, maps: 1, outputs, taps: 1, inputs };
        let taps = Taps { weight, inputs, kernel_taps: 1 };
        let own = || {
            let gate = gate.as_ref().map(|gate| self.weight(gate, Precision::F32)).transpose()?;
            Ok(CudaLinear { packed: self.pack(sizes, bias.clone(), taps)?, gate, library_bias: None })
        };
        // No library multiplies by a gate.
        if gate.is_some() || !self.library_takes((inputs, outputs)) {
            return own();
        }
        let for_library = || {
            let offsets = bias.clone().unwrap_or_else(|| vec![0.0; outputs]);
            let library_bias = Some(self.weight(&offsets, self.precision)?);
            // The library reads weights column by column. So do the kernels of every generation, should it decline.
            Ok(CudaLinear { packed: self.pack_for(false, sizes, bias.clone(), taps)?, gate: None, library_bias })
        };
        self.faster((inputs, outputs), &own, &for_library)
    }

    pub(super) fn run_linear(
        &self,
        x: &CudaTensor,
        layer: &CudaLinear,
        epilogue: Epilogue<'_, Self>,
    ) -> Result<CudaTensor> {
        let CudaLinear { packed, gate, library_bias } = layer;
        let (rows, inputs) = x.matrix_dims()?;
        let columns = packed.columns;
        if inputs != packed.inputs || x.precision != self.precision {
            return Err(Error::Compute(format!("a linear layer of {} inputs given {:?}", packed.inputs, x.shape)));
        }
        let residual = epilogue.residual(gate.is_some())?;
        if let Some(residual) = residual
            && (residual.matrix_dims()? != (rows, columns) || residual.precision != self.precision)
        {
            return Err(Error::Compute(format!("a residual of {:?} for {rows} x {columns}", residual.shape)));
        }
        let out = self.empty_matrix(rows, columns)?;
        if rows == 0 {
            return Ok(out);
        }
        let residual = residual.map_or(0, CudaTensor::address);
        if let Some(bias) = library_bias {
            let workspace = self.arena.allocate(WORKSPACE_BYTES)?;
            let gemm = Gemm {
                x: x.address(),
                weights: packed.weights.address(),
                bias: bias.address(),
                residual,
                out: out.address(),
                rows,
                columns,
                inputs,
                depth: packed.depth as usize,
                gelu: matches!(epilogue, Epilogue::Gelu),
                precision: self.precision,
                workspace: (workspace.address(), WORKSPACE_BYTES),
            };
            if self.queue.gemm(&gemm)? {
                return Ok(out);
            }
        }
        let grid = self.gemm_grid(packed, rows, 1);
        let args = LinearArgs {
            x: x.address(),
            weights: packed.weights.address(),
            bias: packed.bias.address(),
            residual,
            gate: gate.as_ref().map_or(0, Weight::address),
            out: out.address(),
            rows: index(rows)?,
            columns: index(columns)?,
            inputs: index(inputs)?,
            depth: packed.depth,
            activation: match epilogue {
                Epilogue::None | Epilogue::Add(_) => 0,
                Epilogue::Gelu => 1,
            },
            blocks: index(grid[0])?,
        };
        self.launch(&LINEAR[packed.tile as usize], grid, &args)?;
        Ok(out)
    }
}
