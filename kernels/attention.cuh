// SPDX-License-Identifier: MPL-2.0
//
// Definitions shared by the kernels of attention and of its mask.
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

// Writes zeros, the result of queries that have no keys.
template <class T> DEVICE void write_zeros(T* out, u32 rows, u32 dim, u32 threads) {
    constexpr u32 N = PER_16_BYTES<T>, VECS = HEAD / N;
    for (u32 i = thread(); i < rows * VECS; i += threads)
        *reinterpret_cast<Vector<T, N>*>(out + u64(i / VECS) * dim + i % VECS * N) = {};
}

struct SparseArgs {
    const void* q;
    void* out;
    // The mask. For each head and query window: the number of its key windows, and the list of them; lists are `pitch`
    // apart.
    const u32* counts;
    const u32* lists;
    // The query windows of each head, in the order in which they are worked on.
    const u32* order;
    u32 dim, query_windows, pitch, group_windows;
    // The cache: keys and values of each frame pair.
    const void* k[MAX_GROUPS];
    const void* v[MAX_GROUPS];

    // The tile of a head in a key window, as the lists number them over all frame pairs.
    template <class T> METHOD const T* tile(const void* const (&groups)[MAX_GROUPS], u32 window, u32 head) const {
        const TiledQkv<T> layout{dim};
        return static_cast<const T*>(groups[window / group_windows]) + layout.tile(window % group_windows, head);
    }
};
