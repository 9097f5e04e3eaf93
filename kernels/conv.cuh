// SPDX-License-Identifier: MPL-2.0
//
// Convolutions as problems of gemm.cuh (implicit GEMM): the rows of A are the pixels of a feature map, read in place at
// the taps of one input map after the other. The batch index (grid z) is the output frame of a causal conv3d, or the
// sub-pixel phase of an upsampling conv.
#pragma once

#include "gemm.cuh"

namespace {

constexpr u32 MAX_OUTS = 8, MAX_MAPS = 2 * MAX_OUTS + 2;

struct ConvArgs {
    // The input maps, and the output maps of `outputs` channels each.
    const void* maps[MAX_MAPS];
    void* outs[MAX_OUTS];
    const void* weights;
    const float* bias;
    // The skip connection, of an output map's shape, or null.
    const void* skip;
    // Height, width and channels of the input maps.
    u32 height, width, inputs;
    // Columns of the GEMM: the channels of all maps that one phase or frame gives, `outputs` each.
    u32 columns, outputs;
    // Values of a column of the weights, and the taps that are used of it.
    u32 depth, taps;
    // Taps along a side of the kernel: 3, or 2 for an upsampling.
    u32 side;
    // Flags. `over_time`: a conv3d, whose output frames begin 2 input maps apart; `phases`: an upsampling, whose phases
    // have weights and pixels of their own; `replicate`: the border is repeated, else it is 0.
    u32 over_time, phases, replicate, relu;
    // Output frames or phases; and the launch's blocks, for the persistent kernels.
    u32 batches, blocks;
};

// A: the pixels of the maps at a tap.
template <class T> struct Taps {
    // Row and column of a pixel; `y` is far outside the map for rows beyond the last pixel.
    struct Row {
        i32 y, x;
    };

    const ConvArgs* args;
    u32 batch;
    const T* map;
    // The tap's position relative to the pixel.
    i32 dy, dx;

    METHOD Row row(u32 m) const {
        if (m >= args->height * args->width) return {-0x10000000, 0};
        return {i32(m / args->width), i32(m % args->width)};
    }

    METHOD void enter(u32 tap) {
        // Divides by constants, which is cheap: this runs every few k tiles.
        const bool three = args->side == 3;
        const u32 source = three ? tap / 9 : tap / 4, in_kernel = tap - source * (three ? 9 : 4);
        const u32 tap_row = three ? in_kernel / 3 : in_kernel / 2, tap_column = in_kernel - tap_row * (three ? 3 : 2);
        const u32 phase = args->phases ? batch : 0, first = args->over_time ? 2 * batch : 0;
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

template <class T> struct ConvEpilogue {
    const ConvArgs& args;
    u32 batch;

    METHOD bool in_bounds(u32 row, u32 column) const { return row < args.height * args.width && column < args.columns; }
    METHOD u32 vector_width() const { return args.outputs; }

    METHOD u64 row_offset(u32 row) const {
        if (!args.phases) return u64(row) * args.outputs;
        const u64 y = 2 * u64(row / args.width) + batch / 2;
        return (y * (2 * args.width) + 2 * (row % args.width) + batch % 2) * args.outputs;
    }

    template <int N> METHOD BiasScale<N> bias_scale(u32 column) const {
        return {load_vector<N>(args.bias + column), filled_vector<N>(1.0f)};
    }

    METHOD const T* residual() const { return static_cast<const T*>(args.skip); }

    template <int N>
    METHOD void store(u64 offset, u32 column, const Vector<float, N>& scaled, const Vector<float, N>& residual) const {
        auto y = scaled;
        const u32 out = args.phases ? column / args.outputs : args.over_time ? batch : 0;
        const u32 channel = args.phases ? column % args.outputs : column;
#pragma unroll
        for (int i = 0; i < N; ++i) y.values[i] += residual.values[i];
        if (args.relu) {
            // A maximum would turn NaN into 0 and hide it.
#pragma unroll
            for (int i = 0; i < N; ++i) y.values[i] = y.values[i] < 0.0f ? 0.0f : y.values[i];
        }
        store_vector(static_cast<T*>(args.outs[out]) + offset + channel, y);
    }
};

template <class T> struct Conv {
    using A = Taps<T>;

    const ConvArgs& args;

    METHOD A a(u32 batch) const { return {&args, batch, nullptr, 0, 0}; }
    METHOD ConvEpilogue<T> epilogue(u32 batch) const { return {args, batch}; }
    template <class Tile> METHOD Gemm gemm(u32 batch) const {
        const u64 values = u64(divide_up(args.columns, Tile::N) * Tile::N) * args.depth;
        return {static_cast<const T*>(args.weights) + (args.phases ? batch * values : 0),
                args.height * args.width, args.columns, args.inputs, args.taps, args.depth};
    }
};

}
