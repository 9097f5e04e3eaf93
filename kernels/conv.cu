// SPDX-License-Identifier: MPL-2.0
//
// Convolutions as products over taps read in place: the left side's rows are the pixels of a map, its segments the taps
// of one input map after the other. block_z is an output step of a convolution over time, or a phase of an upsampling.

#include "matmul.cuh"

namespace {

constexpr u32 MAX_OUTS = 8, MAX_MAPS = 2 * MAX_OUTS + 2;

struct ConvArgs {
    const void* maps[MAX_MAPS];
    // Of `outputs` channels each.
    void* outs[MAX_OUTS];
    const void* weights;
    const float* bias;
    // Of the result's shape, or null.
    const void* skip;
    // Of the input maps.
    u32 height, width, inputs;
    // Columns of the product: those of all maps that come out of one phase or step, `outputs` each.
    u32 columns, outputs;
    // Values of a column of weights; segments of them that are used.
    u32 depth, segments;
    // Taps of a kernel's row: 3 or 2.
    u32 side;
    // Output steps start 2 maps apart; each phase has weights and pixels of its own.
    u32 over_time, phases, replicate, relu;
};

template <class T> struct Taps {
    // Row and column of a pixel; beyond the last one `y` is far outside.
    struct Row {
        i32 y, x;
    };

    const ConvArgs* args;
    const T* map;
    // Of the tap, from the pixel.
    i32 dy, dx;

    METHOD Row row(u32 m) const {
        if (m >= args->height * args->width) return {-0x10000000, 0};
        return {i32(m / args->width), i32(m % args->width)};
    }

    METHOD void enter(u32 segment) {
        // Divided by constants: this comes up every few steps of the product.
        const bool three = args->side == 3;
        const u32 source = three ? segment / 9 : segment / 4, tap = segment - source * (three ? 9 : 4);
        const u32 tap_row = three ? tap / 3 : tap / 2, tap_column = tap - tap_row * (three ? 3 : 2);
        const u32 phase = args->phases ? block_z() : 0, first = args->over_time ? 2 * block_z() : 0;
        map = static_cast<const T*>(args->maps[first + source]);
        dy = i32(tap_row + phase / 2) - 1;
        dx = i32(tap_column + phase % 2) - 1;
    }

    METHOD const T* channels(Row row) const {
        i32 y = row.y + dy, x = row.x + dx;
        if (args->replicate) {
            y = clamp(y, 0, i32(args->height) - 1);
            x = clamp(x, 0, i32(args->width) - 1);
        }
        if (u32(y) >= args->height || u32(x) >= args->width) return nullptr;
        return map + (u64(u32(y)) * args->width + u32(x)) * args->inputs;
    }
};

template <class T> struct ConvResult {
    const ConvArgs& args;

    template <int N> METHOD void store_some(u32 row, u32 column, const Vector<float, N>& sums) const {
        auto y = sums;
        u64 pixel = row;
        u32 out = args.over_time ? block_z() : 0, channel = column;
        if (args.phases) {
            const u64 y = 2 * u64(row / args.width) + block_z() / 2;
            pixel = y * (2 * args.width) + 2 * (row % args.width) + block_z() % 2;
            out = column / args.outputs;
            channel = column % args.outputs;
        }
        const u64 at = pixel * args.outputs + channel;
        const auto bias = read<float, N>(args.bias + column);
#pragma unroll
        for (int i = 0; i < N; ++i) y.values[i] += bias.values[i];
        if (args.skip) {
            const auto skip = read<T, N>(static_cast<const T*>(args.skip) + at);
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] += skip.values[i];
        }
        if (args.relu) {
            // Written so that NaN stays visible.
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] = y.values[i] < 0.0f ? 0.0f : y.values[i];
        }
        write(static_cast<T*>(args.outs[out]) + at, y);
    }

    template <int N> METHOD void store(u32 row, u32 column, const Vector<float, N>& sums) const {
        if (row >= args.height * args.width) return;
        if (args.outputs % N == 0) {
            if (column < args.columns) store_some(row, column, sums);
            return;
        }
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (column + i < args.columns) store_some(row, column + i, Vector<float, 1>{{sums.values[i]}});
    }
};

template <class T, class Tile, bool ALIGNED> DEVICE void conv(const ConvArgs& args) {
    const u32 phase = args.phases ? block_z() : 0;
    const u64 layer = u64(divide_up(args.columns, Tile::N) * Tile::N) * args.depth;
    const Product product{static_cast<const T*>(args.weights) + phase * layer,
                          args.height * args.width, args.columns, args.inputs, args.segments, args.depth};
    multiply<T, Tile, ALIGNED>(Taps<T>{&args, nullptr, 0, 0}, product, ConvResult<T>{args});
}

template <class T> DEVICE void conv_wide(const ConvArgs& args) { conv<T, Wide, true>(args); }
template <class T> DEVICE void conv_middle(const ConvArgs& args) { conv<T, Middle, true>(args); }
template <class T> DEVICE void conv_narrow(const ConvArgs& args) { conv<T, Narrow, true>(args); }
template <class T> DEVICE void conv_odd(const ConvArgs& args) { conv<T, Middle, false>(args); }

}

KERNELS_RESIDENT(conv_wide, THREADS, BLOCKS, WideShared, ConvArgs)
KERNELS_RESIDENT(conv_middle, THREADS, BLOCKS, MiddleShared, ConvArgs)
KERNELS_RESIDENT(conv_narrow, THREADS, BLOCKS, NarrowShared, ConvArgs)
KERNELS_RESIDENT(conv_odd, THREADS, BLOCKS, MiddleShared, ConvArgs)
