// SPDX-License-Identifier: MPL-2.0
//
// Linear layers over rows.

#include "matmul.cuh"

namespace {

enum Epilogue : u32 { NONE, GELU, ADD };

struct LinearArgs {
    const void* x;
    const void* weights;
    const float* bias;
    // Of the result's shape, and one factor per column or null; for ADD.
    const void* residual;
    const float* gate;
    void* out;
    u32 rows, columns, inputs, depth, epilogue;
};

template <class T> struct Rows {
    using Row = const T*;

    const T* x;
    u32 rows, inputs;

    METHOD Row row(u32 m) const { return m < rows ? x + u64(m) * inputs : nullptr; }
    METHOD void enter(u32) const {}
    METHOD const T* channels(Row row) const { return row; }
};

// GELU in its tanh form (Hendrycks & Gimpel 2016, section 2), with (1 + tanh(u)) / 2 as 1 / (1 + exp(-2 u)): a power of 2
// costs a fraction of a tanh, and small results keep their digits.
DEVICE float gelu(float x) {
    constexpr float FACTOR = -2.0f * 1.44269504f * 0.79788456080286536f;
    return x / (1.0f + exp2_fast(FACTOR * (x + 0.044715f * x * x * x)));
}

template <class T> struct LinearResult {
    const LinearArgs& args;

    template <int N> METHOD void store_some(u32 row, u32 column, const Vector<float, N>& sums) const {
        auto y = sums;
        const u64 at = u64(row) * args.columns + column;
        const auto bias = read<float, N>(args.bias + column);
#pragma unroll
        for (int i = 0; i < N; ++i) y.values[i] += bias.values[i];
        if (args.epilogue == GELU) {
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] = gelu(y.values[i]);
        } else if (args.epilogue == ADD) {
            if (args.gate) {
                const auto gate = read<float, N>(args.gate + column);
#pragma unroll
                for (int i = 0; i < N; ++i) y.values[i] *= gate.values[i];
            }
            const auto residual = read<T, N>(static_cast<const T*>(args.residual) + at);
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] += residual.values[i];
        }
        write(static_cast<T*>(args.out) + at, y);
    }

    template <int N> METHOD void store(u32 row, u32 column, const Vector<float, N>& sums) const {
        if (row >= args.rows) return;
        if (args.columns % N == 0) {
            if (column < args.columns) store_some(row, column, sums);
            return;
        }
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (column + i < args.columns) store_some(row, column + i, Vector<float, 1>{{sums.values[i]}});
    }
};

template <class T, class Tile, bool ALIGNED> DEVICE void linear(const LinearArgs& args) {
    const Rows<T> left{static_cast<const T*>(args.x), args.rows, args.inputs};
    const Product product{args.weights, args.rows, args.columns, args.inputs, 1, args.depth};
    multiply<T, Tile, ALIGNED>(left, product, LinearResult<T>{args});
}

template <class T> DEVICE void linear_wide(const LinearArgs& args) { linear<T, Wide, true>(args); }
template <class T> DEVICE void linear_middle(const LinearArgs& args) { linear<T, Middle, true>(args); }
template <class T> DEVICE void linear_narrow(const LinearArgs& args) { linear<T, Narrow, true>(args); }
template <class T> DEVICE void linear_odd(const LinearArgs& args) { linear<T, Middle, false>(args); }

}

KERNELS_RESIDENT(linear_wide, THREADS, BLOCKS, WideShared, LinearArgs)
KERNELS_RESIDENT(linear_middle, THREADS, BLOCKS, MiddleShared, LinearArgs)
KERNELS_RESIDENT(linear_narrow, THREADS, BLOCKS, NarrowShared, LinearArgs)
KERNELS_RESIDENT(linear_odd, THREADS, BLOCKS, MiddleShared, LinearArgs)
