// SPDX-License-Identifier: MPL-2.0
//
// Linear layers as problems of gemm.cuh: A is the matrix of activations.
#pragma once

#include "gemm.cuh"

namespace {

enum Activation : u32 { NONE, GELU };

struct LinearArgs {
    const void* x;
    const void* weights;
    const float* bias;
    // The residual, of the result's shape, and the gate, a scale per column; both may be null.
    const void* residual;
    const float* gate;
    void* out;
    u32 rows, columns, inputs, depth, activation;
    // The launch's blocks, for the persistent kernels.
    u32 blocks;
};

// A: rows of a plain matrix, with a single tap.
template <class T> struct Rows {
    using Row = const T*;

    const T* x;
    u32 rows, inputs;

    METHOD Row row(u32 m) const { return m < rows ? x + u64(m) * inputs : nullptr; }
    METHOD void enter(u32) const {}
    METHOD const T* channels(Row row) const { return row; }
};

// GELU in its tanh form (Hendrycks & Gimpel 2016, section 2), with (1 + tanh(u)) / 2 as 1 / (1 + exp(-2 u)): exp2 and a
// fast division cost a fraction of a tanh, and small results keep their precision.
DEVICE float gelu(float x) {
    constexpr float FACTOR = -2.0f * 1.44269504f * 0.79788456080286536f;
    return divide_fast(x, 1.0f + exp2_fast(x * (FACTOR + FACTOR * 0.044715f * x * x)));
}

template <class T> struct LinearEpilogue {
    const LinearArgs& args;

    METHOD bool in_bounds(u32 row, u32 column) const { return row < args.rows && column < args.columns; }
    METHOD u32 vector_width() const { return args.columns; }
    METHOD u64 row_offset(u32 row) const { return u64(row) * args.columns; }

    template <int N> METHOD BiasScale<N> bias_scale(u32 column) const {
        return {load_vector<N>(args.bias + column),
                args.gate ? load_vector<N>(args.gate + column) : filled_vector<N>(1.0f)};
    }

    METHOD const T* residual() const { return static_cast<const T*>(args.residual); }

    template <int N>
    METHOD void store(u64 offset, u32 column, const Vector<float, N>& scaled, const Vector<float, N>& residual) const {
        auto y = scaled;
        if (args.activation == GELU) {
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] = gelu(y.values[i]);
        }
#pragma unroll
        for (int i = 0; i < N; ++i) y.values[i] += residual.values[i];
        store_vector(static_cast<T*>(args.out) + offset + column, y);
    }
};

template <class T> struct Linear {
    using A = Rows<T>;

    const LinearArgs& args;

    METHOD A a(u32) const { return {static_cast<const T*>(args.x), args.rows, args.inputs}; }
    METHOD LinearEpilogue<T> epilogue(u32) const { return {args}; }
    template <class Tile> METHOD Gemm gemm(u32) const {
        return {args.weights, args.rows, args.columns, args.inputs, 1, args.depth};
    }
};

}
