// SPDX-License-Identifier: MPL-2.0

//! Tensors whose elements do not lie in row-major order: transposed ones, and parts of larger ones.

use std::ops::Range;

use crate::backend::{Precision, decode};
use crate::error::{Error, Result};

/// A tensor whose first and last element are at most so many times its own size apart is read with all that lies between.
const DENSE: u64 = 4;
/// Bytes that are read at a time of any other one.
const PIECE_BYTES: usize = 64 << 10;

/// Reads the elements of a strided tensor in row-major order. `bytes` is its span, from the first to the last element;
/// `read(offset, to)` reads from that. Strides are in elements.
///
/// # Errors
/// Those of `read`; [`Error::Compute`] if strides lead out of the span.
pub(super) fn gather(
    read: impl Fn(u64, &mut [u8]) -> Result<()>,
    precision: Precision,
    bytes: &Range<u64>,
    shape: &[usize],
    strides: &[usize],
) -> Result<Vec<f32>> {
    let (size, count) = (precision.bytes(), shape.iter().product::<usize>());
    let span = bytes.end - bytes.start;
    let whole = if span <= DENSE * (count * size) as u64 {
        let mut whole = vec![0; span as usize];
        read(0, &mut whole)?;
        Some(decode(&whole, precision))
    } else {
        None
    };
    // The innermost dimension is walked in runs of elements that lie close together.
    let (&length, outer) = shape.split_last().unwrap_or((&1, &[]));
    let (&stride, outer_strides) = strides.split_last().unwrap_or((&1, &[]));
    let run = (PIECE_BYTES / size).div_ceil(stride.max(1)).clamp(1, length.max(1));
    let mut values = Vec::with_capacity(count);
    let mut index = vec![0usize; outer.len()];
    let mut row = 0usize;
    while values.len() < count {
        for first in (0..length).step_by(run) {
            let elements = run.min(length - first);
            let start = row + first * stride;
            let reach = (elements - 1) * stride + 1;
            match &whole {
                Some(whole) => {
                    let piece = whole.get(start..start + reach).ok_or_else(beyond)?;
                    values.extend(piece.iter().step_by(stride.max(1)).cycle().take(elements));
                }
                None => {
                    let mut piece = vec![0; reach * size];
                    read((start * size) as u64, &mut piece)?;
                    let piece = decode(&piece, precision);
                    values.extend(piece.iter().step_by(stride.max(1)).cycle().take(elements));
                }
            }
        }
        for ((index, &size), &stride) in index.iter_mut().zip(outer).zip(outer_strides).rev() {
            *index += 1;
            row += stride;
            if *index < size {
                break;
            }
            row -= stride * size;
            *index = 0;
        }
    }
    Ok(values)
}

fn beyond() -> Error {
    Error::Compute("the strides of a tensor lead out of its storage".into())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::backend::encode;

    /// The values 0, 1, 2, ... of a storage, gathered, and the most bytes that a read brought.
    fn gathered(storage: usize, shape: &[usize], strides: &[usize]) -> (Vec<f32>, usize) {
        let stored = encode(&(0..storage).map(|i| i as f32).collect::<Vec<_>>(), Precision::F32);
        let most = Cell::new(0);
        let read = |offset: u64, to: &mut [u8]| {
            most.set(most.get().max(to.len()));
            to.copy_from_slice(&stored[offset as usize..][..to.len()]);
            Ok(())
        };
        let values = gather(read, Precision::F32, &(0..stored.len() as u64), shape, strides).unwrap();
        (values, most.get())
    }

    fn expected(shape: &[usize], strides: &[usize]) -> Vec<f32> {
        let count: usize = shape.iter().product();
        let at = |i: usize| {
            let (mut rest, mut at) = (i, 0);
            for (size, stride) in shape.iter().zip(strides).rev() {
                at += rest % size * stride;
                rest /= size;
            }
            at as f32
        };
        (0..count).map(at).collect()
    }

    #[test]
    fn every_order_reads_as_its_elements() {
        for (storage, shape, strides) in [
            (24, vec![2, 3, 4], vec![12, 4, 1]),
            (24, vec![4, 3, 2], vec![1, 4, 12]),
            (12, vec![3, 4], vec![1, 3]),
            (7, vec![3, 2], vec![3, 0]),
            (1, vec![1, 1], vec![0, 0]),
            (1000, vec![5], vec![200]),
            (100_000, vec![3, 7], vec![40_000, 3_000]),
            (100_000, vec![2, 3, 4], vec![50_000, 1, 12_000]),
        ] {
            assert_eq!(gathered(storage, &shape, &strides).0, expected(&shape, &strides), "{shape:?} {strides:?}");
        }
    }

    #[test]
    fn what_lies_between_far_elements_is_not_read() {
        let (values, most) = gathered(10_000_000, &[16, 64], &[600_000, 9_000]);
        assert_eq!(values, expected(&[16, 64], &[600_000, 9_000]));
        assert!(most <= PIECE_BYTES + 9_000 * 4, "{most} bytes at a time");
    }
}
