// SPDX-License-Identifier: MPL-2.0
//
// Bicubic resizing with the arithmetic of Pillow (Resample.c): weights in fixed point, first along rows, then along
// columns, each pass rounded to the depth of the frame. Samples of 16 bits have sums of 64 bits.

#include "vector_io.cuh"

namespace {

constexpr u32 THREADS = 128;
// Pixels of a row that a thread of the second pass computes.
constexpr u32 PIXELS = 4;
// Fractional bits of the weights.
constexpr u32 BITS = 22;

template <class S> struct Depth;
template <> struct Depth<u8> {
    typedef i32 Sum;
    static constexpr i32 MAX = 255;
};
template <> struct Depth<u16> {
    typedef i64 Sum;
    static constexpr i64 MAX = 65535;
};
template <class S> using Sum = typename Depth<S>::Sum;

// The filter along an axis: for each output sample the first of its `taps` input samples, and their weights.
struct Axis {
    const u32* first;
    const i32* weights;
    u32 taps, count;
};

struct AcrossArgs {
    const void* frame;
    void* lines;
    Axis columns;
    u32 width;
};

struct DownArgs {
    const void* lines;
    float* picture;
    Axis rows;
    u32 cols, height, width;
};

template <class S> DEVICE Sum<S> rounded(Sum<S> sum) { return clamp<Sum<S>>(sum >> BITS, 0, Depth<S>::MAX); }

// Resizes rows of packed RGB. A thread computes a pixel.
template <class S> DEVICE void resize_across(const AcrossArgs& args) {
    const Axis& axis = args.columns;
    const u32 x = block_x() * THREADS + thread(), y = block_y();
    if (x >= axis.count) return;
    const S* source = static_cast<const S*>(args.frame) + (u64(y) * args.width + axis.first[x]) * 3;
    const i32* weights = axis.weights + u64(x) * axis.taps;
    Sum<S> sums[3];
    for (u32 c = 0; c < 3; ++c) sums[c] = Sum<S>(1) << (BITS - 1);
    for (u32 tap = 0; tap < axis.taps; ++tap, source += 3) {
        const Sum<S> weight = weights[tap];
#pragma unroll
        for (u32 c = 0; c < 3; ++c) sums[c] += weight * source[c];
    }
    S* out = static_cast<S*>(args.lines) + (u64(y) * axis.count + x) * 3;
#pragma unroll
    for (u32 c = 0; c < 3; ++c) out[c] = S(rounded<S>(sums[c]));
}

// Loads PIXELS pixels of a line; beyond its end the last one is repeated.
template <class S> DEVICE void load_pixels(S (&to)[3 * PIXELS], const S* line, u32 x, u32 cols) {
    if (cols % PIXELS == 0 && x < cols) {
#pragma unroll
        for (u32 i = 0; i < 3; ++i) {
            const auto v = *reinterpret_cast<const Vector<S, 4>*>(line + 3 * x + 4 * i);
#pragma unroll
            for (u32 j = 0; j < 4; ++j) to[4 * i + j] = v.values[j];
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            const S* pixel = line + 3 * min(x + i, cols - 1);
#pragma unroll
            for (u32 c = 0; c < 3; ++c) to[3 * i + c] = pixel[c];
        }
    }
}

// Resizes columns, into a picture in [-1, 1]; beyond the frame the last row and column are repeated.
template <class S> DEVICE void resize_down(const DownArgs& args) {
    const Axis& axis = args.rows;
    const u32 x = (block_x() * THREADS + thread()) * PIXELS, y = block_y();
    if (x >= args.width) return;
    const u32 row = min(y, axis.count - 1);
    const i32* weights = axis.weights + u64(row) * axis.taps;
    const S* line = static_cast<const S*>(args.lines) + u64(axis.first[row]) * 3 * args.cols;
    Sum<S> sums[3 * PIXELS];
#pragma unroll
    for (u32 i = 0; i < 3 * PIXELS; ++i) sums[i] = Sum<S>(1) << (BITS - 1);
    for (u32 tap = 0; tap < axis.taps; ++tap, line += 3 * args.cols) {
        const Sum<S> weight = weights[tap];
        S samples[3 * PIXELS];
        load_pixels(samples, line, x, args.cols);
#pragma unroll
        for (u32 i = 0; i < 3 * PIXELS; ++i) sums[i] += weight * samples[i];
    }
#pragma unroll
    for (u32 c = 0; c < 3; ++c) {
        float values[PIXELS];
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            values[i] = float(rounded<S>(sums[3 * i + c])) / float(Depth<S>::MAX) * 2.0f - 1.0f;
        }
        float* out = args.picture + (u64(c) * args.height + y) * args.width + x;
        store_some(out, values, args.width - x, args.width % PIXELS == 0);
    }
}

}

KERNEL(resize_across_u8, THREADS, NoShared, AcrossArgs) { resize_across<u8>(args); }
KERNEL(resize_across_u16, THREADS, NoShared, AcrossArgs) { resize_across<u16>(args); }
KERNEL(resize_down_u8, THREADS, NoShared, DownArgs) { resize_down<u8>(args); }
KERNEL(resize_down_u16, THREADS, NoShared, DownArgs) { resize_down<u16>(args); }
