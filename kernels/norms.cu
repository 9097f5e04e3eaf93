// SPDX-License-Identifier: MPL-2.0
//
// Norms of the rows of a matrix. A warp takes a row and reads it two or three times: first from memory, then from the
// L1 cache, which holds the rows of all warps of a block many times over.

#include "vector_io.cuh"

namespace {

constexpr u32 THREADS = 128;
constexpr float EPS = 1e-6f;

struct NormArgs {
    const void* x;
    void* out;
    const float* scale;
    const float* shift;
    u32 rows, cols;
};

// Calls f(value) for each of this lane's values of a row, which it reads in 16-byte vectors where rows are aligned to
// them.
template <class T, class F> DEVICE void for_row(const T* row, u32 cols, F f) {
    constexpr u32 N = PER_16_BYTES<T>;
    if (cols % N == 0) {
        for (u32 col = lane() * N; col < cols; col += WARP * N) {
            const auto v = *reinterpret_cast<const Vector<T, N>*>(row + col);
#pragma unroll
            for (u32 i = 0; i < N; ++i) f(to_float(v.values[i]));
        }
    } else {
        for (u32 col = lane(); col < cols; col += WARP) f(to_float(row[col]));
    }
}

// Writes f(value, scale, shift) for each value of a row, with the scale and shift of its column; `shift` may be null:
// 0.
template <class T, class F>
DEVICE void map_row(T* out, const T* row, const float* scale, const float* shift, u32 cols, F f) {
    constexpr u32 N = PER_16_BYTES<T>;
    if (cols % N == 0) {
        for (u32 col = lane() * N; col < cols; col += WARP * N) {
            float values[N], scales[N], shifts[N] = {};
            load(values, row + col);
            load(scales, scale + col);
            if (shift) load(shifts, shift + col);
#pragma unroll
            for (u32 i = 0; i < N; ++i) values[i] = f(values[i], scales[i], shifts[i]);
            store(out + col, values);
        }
    } else {
        for (u32 col = lane(); col < cols; col += WARP)
            out[col] = from_float<T>(f(to_float(row[col]), scale[col], shift ? shift[col] : 0.0f));
    }
}

template <class T> DEVICE float sum_of_squares(const T* row, u32 cols) {
    float sum = 0;
    for_row(row, cols, [&](float v) { sum += v * v; });
    return warp_sum(sum);
}

// Finds the row of this warp; false beyond the last one.
template <class T> DEVICE bool own_row(const NormArgs& args, const T*& x, T*& out) {
    const u64 row = u64(block_x()) * (THREADS / WARP) + warp();
    x = static_cast<const T*>(args.x) + row * args.cols;
    out = static_cast<T*>(args.out) + row * args.cols;
    return row < args.rows;
}

// Layer norm without parameters of its own, then scale and shift per column.
template <class T> DEVICE void layer_norm(const NormArgs& args) {
    const T* x;
    T* out;
    if (!own_row(args, x, out)) return;
    float sum = 0;
    for_row(x, args.cols, [&](float v) { sum += v; });
    const float mean = warp_sum(sum) / float(args.cols);
    float squares = 0;
    for_row(x, args.cols, [&](float v) { squares += (v - mean) * (v - mean); });
    const float inverse = 1.0f / sqrtf(warp_sum(squares) / float(args.cols) + EPS);
    map_row(out, x, args.scale, args.shift, args.cols, [&](float v, float scale, float shift) {
        return (v - mean) * inverse * scale + shift;
    });
}

template <class T> DEVICE void rms_norm(const NormArgs& args) {
    const T* x;
    T* out;
    if (!own_row(args, x, out)) return;
    const float inverse = 1.0f / sqrtf(sum_of_squares(x, args.cols) / float(args.cols) + EPS);
    map_row(out, x, args.scale, nullptr, args.cols, [&](float v, float scale, float) { return v * inverse * scale; });
}

// The LQ projection's norm, which has no epsilon, and SiLU.
template <class T> DEVICE void rms_norm_silu(const NormArgs& args) {
    const T* x;
    T* out;
    if (!own_row(args, x, out)) return;
    const float norm = sqrtf(sum_of_squares(x, args.cols));
    const float factor = sqrtf(float(args.cols)) / fmaxf(norm, 1e-12f);
    map_row(out, x, args.scale, nullptr, args.cols, [&](float v, float scale, float) {
        const float y = v * factor * scale;
        return y / (1.0f + expf(-y));
    });
}

}

KERNELS(layer_norm, THREADS, NoSharedFor, NormArgs)
KERNELS(rms_norm, THREADS, NoSharedFor, NormArgs)
KERNELS(rms_norm_silu, THREADS, NoSharedFor, NormArgs)
