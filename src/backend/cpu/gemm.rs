// SPDX-License-Identifier: MPL-2.0

//! The one door to the `gemm` crate, candle's matrix multiplication: checked views in, unsafe call inside.

/// A read-only matrix in a slice. Rows may overlap, which is how convolutions read their patches without copying them.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> View<'a> {
    /// A row-major matrix whose rows start `stride` values apart.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Self {
        Self { data, rows, cols, row_stride: stride, col_stride: 1 }
    }

    /// Rows and columns exchanged.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            data: self.data,
        }
    }

    fn check(&self) {
        let last = (self.rows.max(1) - 1) * self.row_stride + (self.cols.max(1) - 1) * self.col_stride;
        assert!(self.rows * self.cols == 0 || last < self.data.len(), "matrix view outside its values");
    }
}

/// What happens to the values that are already in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    /// Overwritten.
    Overwrite,
    /// Added to.
    Accumulate,
}

/// `dst = alpha * a * b`, or `dst += alpha * a * b`, on `threads` threads of the current rayon pool; rows of `dst` start
/// `stride` values apart.
pub(super) fn gemm(dst: &mut [f32], stride: usize, a: View<'_>, b: View<'_>, alpha: f32, into: Into, threads: usize) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    a.check();
    b.check();
    assert_eq!(k, b.rows, "inner sizes of a matrix product differ");
    assert!(m * n == 0 || (stride >= n && (m - 1) * stride + n <= dst.len()), "product outside its destination");
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    // SAFETY: the asserts above keep every element that the strides reach inside the three slices, and `dst` is borrowed
    // mutably, so it overlaps neither `a` nor `b`; its own rows do not overlap as `stride >= n`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            1,
            stride as isize,
            into == Into::Accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_rows_accumulate() {
        let a: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let b = [1.0, 10.0];
        let mut dst = [100.0; 5];
        gemm(&mut dst, 1, View::new(&a, 5, 2, 1), View::new(&b, 2, 1, 1), 2.0, Into::Accumulate, 1);
        assert_eq!(dst, [120.0, 142.0, 164.0, 186.0, 208.0]);
    }

    #[test]
    #[should_panic(expected = "outside its values")]
    fn a_view_cannot_leave_its_slice() {
        let a = [0.0; 5];
        gemm(&mut [0.0; 4], 1, View::new(&a, 3, 2, 2), View::new(&a, 2, 1, 1), 1.0, Into::Overwrite, 1);
    }
}
