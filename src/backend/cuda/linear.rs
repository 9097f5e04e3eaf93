// SPDX-License-Identifier: MPL-2.0

//! Linear layers: `kernels/linear.cu`.

use super::driver::{Address, Args, Driver, kernels};
use super::product::{HOPPER_THREADS, Packed, THREADS, Tile};
use super::{CudaBackend, CudaTensor, Kernels, Weight, flat, index};
use crate::backend::{Epilogue, HostTensor};
use crate::error::{Error, Result};

const LINEAR: [Kernels; 6] = [
    kernels!("linear", "linear_wide", THREADS, Tile::WIDE_SHARED),
    kernels!("linear", "linear_middle", THREADS, Tile::MIDDLE_SHARED),
    kernels!("linear", "linear_narrow", THREADS, Tile::NARROW_SHARED),
    kernels!("linear", "linear_odd", THREADS, Tile::MIDDLE_SHARED),
    kernels!("hopper_linear", "hopper_linear_wide", HOPPER_THREADS, Tile::HOPPER_WIDE_SHARED),
    kernels!("hopper_linear", "hopper_linear_tall", HOPPER_THREADS, Tile::HOPPER_TALL_SHARED),
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
    epilogue: u32,
    blocks: u32,
}

// SAFETY: laid out as the kernel's struct.
unsafe impl Args for LinearArgs {}

/// A linear layer.
pub struct CudaLinear(Packed);

impl<D: Driver> CudaBackend<D> {
    pub(super) fn linear_layer(&self, weight: &HostTensor, bias: Option<&HostTensor>) -> Result<CudaLinear> {
        let (outputs, inputs) = weight.dims2()?;
        let (weight, bias) = (flat(weight)?, bias.map(flat).transpose()?);
        let fill =
            |[_, column, _]: [usize; 3], to: &mut [f32]| to.copy_from_slice(&weight[column * inputs..][..inputs]);
        Ok(CudaLinear(self.pack([1, 1, outputs, 1, inputs], bias, fill)?))
    }

    pub(super) fn run_linear(
        &self,
        x: &CudaTensor,
        layer: &CudaLinear,
        epilogue: Epilogue<'_, Self>,
    ) -> Result<CudaTensor> {
        let CudaLinear(packed) = layer;
        let (rows, inputs) = x.rows_dims()?;
        let columns = packed.columns;
        if inputs != packed.inputs || x.precision != self.precision {
            return Err(Error::Compute(format!("a linear layer of {} inputs given {:?}", packed.inputs, x.shape)));
        }
        let (epilogue, residual, gate) = match epilogue {
            Epilogue::None => (0, None, None),
            Epilogue::Gelu => (1, None, None),
            Epilogue::Add(residual) => (2, Some(residual), None),
            Epilogue::GatedAdd { residual, gate } => (2, Some(residual), Some(gate)),
        };
        if let Some(residual) = residual
            && (residual.rows_dims()? != (rows, columns) || residual.precision != self.precision)
        {
            return Err(Error::Compute(format!("a residual of {:?} for {rows} x {columns}", residual.shape)));
        }
        let out = self.empty_rows(rows, columns)?;
        if rows == 0 {
            return Ok(out);
        }
        let grid = self.product_grid(packed, rows, 1);
        let args = LinearArgs {
            x: x.address(),
            weights: packed.weights.address(),
            bias: packed.bias.address(),
            residual: residual.map_or(0, CudaTensor::address),
            gate: gate.map_or(0, Weight::address),
            out: out.address(),
            rows: index(rows)?,
            columns: index(columns)?,
            inputs: index(inputs)?,
            depth: packed.depth,
            epilogue,
            blocks: index(grid[0])?,
        };
        self.launch(&LINEAR[packed.tile as usize], grid, &args)?;
        Ok(out)
    }
}
