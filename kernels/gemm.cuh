// SPDX-License-Identifier: MPL-2.0
//
// The GEMM (general matrix multiplication) under linear layers and convolutions: out[m][n] = sum over k of
// a[m][k] * b[n][k], in tiles.
//
// A is an implicit matrix, read where it lies: k runs over taps (those of a convolution; one for a linear layer), and
// for each tap over the channels of one pixel or row. The epilogue, all that happens to an accumulator before it is
// stored, is the caller's. A GEMM is a class Problem with
//
//   gemm<Tile>(batch)   the sizes and B of a batch (an index along the grid's z axis); all batches have the same sizes
//   a(batch)            A, of a class `A` with a type `Row` that identifies a row; `Row row(u32 m)`; `void enter(u32)`,
//                       which selects a tap; and `const T* channels(Row)`, a row's channels at that tap, or null for
//                       zeros
//   epilogue(batch)     the epilogue. For each accumulator with `in_bounds(row, column)`: y = (acc + bias) * scale with
//                       those of `bias_scale<N>(column)`, then `store(row_offset(row), column, y, residual)`; the
//                       residual is read from `residual()` at the same offset and column, or 0 if that is null. Stores
//                       are vectorised by any width that divides `vector_width()`
//
// gemm_mma.cuh computes it on every GPU, gemm_wgmma.cuh on Hopper; linear.cuh and conv.cuh are such problems.
#pragma once

#include "vector_io.cuh"

namespace {

// B and the sizes of a GEMM: `depth` values of B per column, of which `taps` taps of `inputs` channels are used.
struct Gemm {
    const void* b;
    u32 rows, columns, inputs, taps, depth;
};

// The number of tiles of a GEMM, and the first row and column of one. Tiles are numbered in bands 16 tiles high, so
// that blocks that run at the same time share rows of A and columns of B in the second-level cache.
template <class Tile> DEVICE u32 count_tiles(const Gemm& gemm) {
    return divide_up(gemm.rows, Tile::M) * divide_up(gemm.columns, Tile::N);
}
template <class Tile> DEVICE void find_tile(u32 tile, const Gemm& gemm, u32& row, u32& column) {
    constexpr u32 BAND = 16;
    const u32 tiles_m = divide_up(gemm.rows, Tile::M), tiles_n = divide_up(gemm.columns, Tile::N);
    const u32 band = tile / (BAND * tiles_n), in_band = tile % (BAND * tiles_n);
    const u32 height = min(BAND, tiles_m - band * BAND);
    row = (band * BAND + in_band % height) * Tile::M;
    column = in_band / height * Tile::N;
}

// Bias and scale of N neighbouring columns.
template <int N> struct BiasScale {
    Vector<float, N> bias, scale;
};

template <class T, class Epilogue, int N>
DEVICE void store_columns(const Epilogue& epilogue, u32 row, u32 column, const Vector<float, N>& acc) {
    const BiasScale<N> columns = epilogue.template bias_scale<N>(column);
    auto y = acc;
#pragma unroll
    for (int i = 0; i < N; ++i) y.values[i] = (y.values[i] + columns.bias.values[i]) * columns.scale.values[i];
    const u64 offset = epilogue.row_offset(row);
    const auto residual = epilogue.residual();
    epilogue.store(offset, column, y, residual ? load_vector<N>(residual + offset + column) : filled_vector<N>(0.0f));
}

// Runs the epilogue on accumulators of neighbouring columns, one by one where its vector width does not allow N.
template <class T, class Epilogue, int N>
DEVICE void store_accumulators(const Epilogue& epilogue, u32 row, u32 column, const Vector<float, N>& acc) {
    if (!epilogue.in_bounds(row, column)) return;
    if (epilogue.vector_width() % N == 0) return store_columns<T>(epilogue, row, column, acc);
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (epilogue.in_bounds(row, column + i))
            store_columns<T>(epilogue, row, column + i, Vector<float, 1>{{acc.values[i]}});
}

}
