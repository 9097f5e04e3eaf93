// SPDX-License-Identifier: MPL-2.0
//
// What the kernels of attention and of its mask have in common.
#pragma once

#include "qkv_layout.cuh"

// 1 / sqrt(HEAD), and log2(e) times that: the hardware's exponential is that of base 2.
constexpr float SOFTMAX_SCALE = 0.08838834764f, SOFTMAX_SCALE_LOG2 = 1.44269504f * SOFTMAX_SCALE;

DEVICE float infinity() { return float_of_bits(0x7f800000); }

// Maximum and sum over neighbouring lanes, `lanes` of which share a row of scores; every lane gets them.
DEVICE float allreduce_max(float x, u32 lanes) {
    for (u32 step = 1; step < lanes; step *= 2) x = fmaxf(x, shuffle_xor(x, step));
    return x;
}
DEVICE float allreduce_sum(float x, u32 lanes) {
    for (u32 step = 1; step < lanes; step *= 2) x += shuffle_xor(x, step);
    return x;
}

// The result of queries that have no keys.
template <class T> DEVICE void write_zeros(T* out, u32 rows, u32 dim, u32 threads) {
    constexpr u32 N = PER_16_BYTES<T>, VECS = HEAD / N;
    for (u32 i = thread(); i < rows * VECS; i += threads)
        *reinterpret_cast<Vector<T, N>*>(out + u64(i / VECS) * dim + i % VECS * N) = {};
}

struct SparseArgs {
    const void* q;
    void* out;
    // Of each head and query window: how many key windows, and which, `pitch` apart.
    const u32* counts;
    const u32* lists;
    // Of each head, the query windows in the order in which they are taken.
    const u32* order;
    u32 dim, query_windows, pitch, group_windows;
    // One per frame pair.
    const void* k[MAX_GROUPS];
    const void* v[MAX_GROUPS];

    // Where a head begins in a key window of the lists.
    template <class T> METHOD const T* tile(const void* const (&groups)[MAX_GROUPS], u32 window, u32 head) const {
        const TiledQkv<T> layout{dim};
        return static_cast<const T*>(groups[window / group_windows]) + layout.tile(window % group_windows, head);
    }
};
