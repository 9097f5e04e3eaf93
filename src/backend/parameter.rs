// SPDX-License-Identifier: MPL-2.0

//! Parameters of the network on their way from a checkpoint to a device. A large one is read in pieces, where and when a
//! backend wants them, in the format in which it is stored.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{DType, Device};
use rayon::prelude::*;

use super::{HostTensor, Precision};
use crate::error::{Error, Result};

/// Values read at a time when all of them are wanted.
const PIECE: usize = 1 << 16;

/// The values of a tensor in row-major order, read when they are wanted.
pub trait Values: Send + Sync {
    /// The format in which they are stored.
    fn precision(&self) -> Precision;

    /// Reads the values from number `first` on into `to`, little-endian, as many as it has room for.
    ///
    /// # Errors
    /// [`Error::Read`] if they cannot be read, [`Error::Cancelled`] if nobody wants them any more.
    fn read(&self, first: usize, to: &mut [u8]) -> Result<()>;
}

/// Values that are on the host already.
struct OnHost {
    tensor: HostTensor,
    /// Made at the first read: whoever only counts never reads.
    flat: OnceLock<Vec<f32>>,
}

impl Values for OnHost {
    fn precision(&self) -> Precision {
        Precision::F32
    }

    fn read(&self, first: usize, to: &mut [u8]) -> Result<()> {
        let flat = match self.flat.get() {
            Some(flat) => flat,
            None => {
                let flat = flat_values(&self.tensor)?;
                self.flat.get_or_init(|| flat)
            }
        };
        let count = to.len() / Precision::F32.bytes();
        let values = flat.get(first..first + count).ok_or_else(beyond)?;
        Precision::F32.encode(values, to);
        Ok(())
    }
}

/// f32 values of a host tensor in row-major order.
pub(super) fn flat_values(tensor: &HostTensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

fn beyond() -> Error {
    Error::Compute("a parameter is read beyond its end".into())
}

/// A parameter of a layer: a tensor, or several of one shape and format that are stacked along the first dimension.
pub struct Parameter<'a> {
    shape: Vec<usize>,
    precision: Precision,
    parts: Vec<Box<dyn Values + 'a>>,
}

impl<'a> Parameter<'a> {
    /// A parameter of this shape whose values are read when they are wanted.
    pub fn new(shape: &[usize], values: impl Values + 'a) -> Self {
        Self { shape: shape.into(), precision: values.precision(), parts: vec![Box::new(values)] }
    }

    /// Several parameters of one shape as one, stacked along the first dimension.
    ///
    /// # Errors
    /// [`Error::Compute`] if there is none, or if their shapes differ.
    pub fn stack(parameters: Vec<Self>) -> Result<Self> {
        let mut parameters = parameters.into_iter();
        let mut stacked = parameters.next().ok_or_else(|| Error::Compute("a stack of no parameters".into()))?;
        let shape = stacked.shape.clone();
        for other in parameters {
            if other.shape != shape || shape.is_empty() {
                return Err(Error::Compute(format!("a stack of {shape:?} and {:?}", other.shape)));
            }
            stacked.parts.extend(other.parts);
            stacked.shape[0] += shape[0];
            if other.precision != stacked.precision {
                // Rare: a checkpoint that mixes formats. Reading converts those parts.
                stacked.precision = Precision::F32;
            }
        }
        Ok(stacked)
    }

    /// The lengths of its dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The lengths of exactly `N` dimensions.
    ///
    /// # Errors
    /// [`Error::Compute`] if there are more or fewer.
    pub fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        let shape = self.shape.as_slice();
        shape.try_into().map_err(|_| Error::Compute(format!("a parameter of {shape:?}, not of {N} dimensions")))
    }

    /// The number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The format in which [`Self::read_rows`] reads.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Reads `rows` along the first dimension into `to`, which has room for exactly these, in the format
    /// [`Self::precision`].
    ///
    /// # Errors
    /// Those of [`Values::read`].
    pub fn read_rows(&self, rows: Range<usize>, to: &mut [u8]) -> Result<()> {
        let row = self.count() / self.shape.first().copied().unwrap_or(1).max(1);
        self.read(rows.start * row, to)
    }

    /// All values in row-major order.
    ///
    /// # Errors
    /// Those of [`Values::read`].
    pub fn values(&self) -> Result<Vec<f32>> {
        let mut values = vec![0.0; self.count()];
        values.par_chunks_mut(PIECE).enumerate().try_for_each_init(Vec::new, |bytes, (number, values)| {
            bytes.resize(values.len() * self.precision.bytes(), 0);
            self.read(number * PIECE, bytes)?;
            self.precision.decode(bytes, values);
            Ok::<_, Error>(())
        })?;
        Ok(values)
    }

    /// The parameter as a tensor on the host.
    ///
    /// # Errors
    /// Those of [`Values::read`].
    pub fn to_host(&self) -> Result<HostTensor> {
        Ok(HostTensor::from_vec(self.values()?, self.shape.as_slice(), &Device::Cpu)?)
    }

    fn read(&self, first: usize, mut to: &mut [u8]) -> Result<()> {
        let (size, part) = (self.precision.bytes(), self.count() / self.parts.len());
        let mut first = first;
        while !to.is_empty() {
            let values = self.parts.get(first / part.max(1)).ok_or_else(beyond)?;
            let count = (part - first % part).min(to.len() / size);
            let (piece, rest) = to.split_at_mut(count * size);
            let stored = values.precision();
            if stored == self.precision {
                values.read(first % part, piece)?;
            } else {
                let mut bytes = vec![0; count * stored.bytes()];
                values.read(first % part, &mut bytes)?;
                stored.convert(&bytes, self.precision, piece);
            }
            (to, first) = (rest, first + count);
        }
        Ok(())
    }
}

impl From<HostTensor> for Parameter<'_> {
    fn from(tensor: HostTensor) -> Self {
        Self::new(tensor.dims(), OnHost { tensor: tensor.clone(), flat: OnceLock::new() })
    }
}

impl From<&HostTensor> for Parameter<'_> {
    fn from(tensor: &HostTensor) -> Self {
        tensor.clone().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::encode;

    /// Values 0, 1, 2, ... from `first` on.
    struct Counting {
        first: usize,
        precision: Precision,
    }

    impl Values for Counting {
        fn precision(&self) -> Precision {
            self.precision
        }

        fn read(&self, first: usize, to: &mut [u8]) -> Result<()> {
            let count = to.len() / self.precision.bytes();
            let values: Vec<f32> = (0..count).map(|i| (self.first + first + i) as f32).collect();
            to.copy_from_slice(&encode(&values, self.precision));
            Ok(())
        }
    }

    fn counting(first: usize, precision: Precision) -> Parameter<'static> {
        Parameter::new(&[4, 3], Counting { first, precision })
    }

    #[test]
    fn a_stack_reads_as_one_whatever_its_parts_are_stored_as() {
        let all: Vec<f32> = (0..36).map(|i| i as f32).collect();
        for formats in [[Precision::Bf16; 3], [Precision::F16, Precision::F32, Precision::Bf16]] {
            let parts = formats.into_iter().enumerate().map(|(i, precision)| counting(12 * i, precision)).collect();
            let stack = Parameter::stack(parts).unwrap();
            assert_eq!(stack.shape(), [12, 3]);
            assert_eq!(stack.values().unwrap(), all);
            // Rows 3 to 8 touch every part.
            let mut bytes = vec![0; 6 * 3 * stack.precision().bytes()];
            stack.read_rows(3..9, &mut bytes).unwrap();
            let mut rows = vec![0.0; 18];
            stack.precision().decode(&bytes, &mut rows);
            assert_eq!(rows, all[9..27]);
        }
    }

    #[test]
    fn parameters_of_different_shapes_do_not_stack() {
        let other = Parameter::new(&[4, 2], Counting { first: 0, precision: Precision::F32 });
        assert!(Parameter::stack(vec![counting(0, Precision::F32), other]).is_err());
        assert!(Parameter::stack(Vec::new()).is_err());
    }

    #[test]
    fn a_tensor_on_the_host_reads_as_itself() {
        let tensor = HostTensor::arange(0.0f32, 12.0, &Device::Cpu).unwrap().reshape((3, 4)).unwrap();
        let transposed = tensor.t().unwrap();
        let parameter = Parameter::from(&transposed);
        assert_eq!(parameter.dims::<2>().unwrap(), [4, 3]);
        assert!(parameter.dims::<3>().is_err());
        assert_eq!(parameter.values().unwrap(), [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.]);
        assert!(parameter.read_rows(3..5, &mut [0; 24]).is_err());
    }
}
