// SPDX-License-Identifier: MPL-2.0
//
// The primitives of prims.cuh on a CPU. The threads of a block are fibers of one thread of the host, which switch at
// barriers and at operations of a whole warp. What a GPU leaves undefined takes its worst value: shared memory starts
// as NaN, an asynchronous copy lands at the wait that guarantees it and leaves NaN until then, and threads run in any
// order between barriers (see scheduler.h).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "scheduler.h"

#define DEVICE static inline __attribute__((always_inline, unused))
#define METHOD inline __attribute__((always_inline))
#define __restrict__ __restrict

#define KERNEL(name, threads, Shared, Args)                                                             \
    static void name(const Args& args);                                                                 \
    static const emulator::Registration name##_registration{                                            \
        {#name, threads, std::is_same<Shared, NoShared>::value ? 0 : sizeof(Shared), sizeof(Args),      \
         [](const void* args) { name(*static_cast<const Args*>(args)); }}};                             \
    static void name(const Args& args)

#define KERNEL_RESIDENT(name, threads, blocks, Shared, Args) KERNEL(name, threads, Shared, Args)

DEVICE u32 thread() { return emulator::block()->running; }
DEVICE u32 block_x() { return emulator::block()->index[0]; }
DEVICE u32 block_y() { return emulator::block()->index[1]; }
DEVICE u32 block_z() { return emulator::block()->index[2]; }

DEVICE void block_barrier() { emulator::block()->barrier(); }
template <class S> DEVICE S& shared_memory() { return *reinterpret_cast<S*>(emulator::block()->shared); }

namespace emulator {
// Runs `operation` on the operands of all lanes of the warp, once the last one has arrived.
template <class A> void meet(A& own, void (*operation)(A**)) {
    emulator::block()->meet(&own, reinterpret_cast<void (*)(void**)>(operation));
}
struct Shuffle {
    float in, out;
    u32 mask;
};
struct Ballot {
    bool in;
    u32 out;
};
struct LoadMatrix {
    u32* out;
    const u16* row;
};
struct Mma {
    float* d;
    const u32* a;
    u32 b[2];
};
}

DEVICE void warp_barrier() {
    u32 nothing = 0;
    emulator::meet<u32>(nothing, [](u32**) {});
}

DEVICE float shuffle_xor(float x, u32 mask) {
    emulator::Shuffle own{x, 0, mask};
    emulator::meet<emulator::Shuffle>(own, [](emulator::Shuffle** lanes) {
        for (u32 l = 0; l < 32; ++l) lanes[l]->out = lanes[l ^ lanes[l]->mask]->in;
    });
    return own.out;
}

DEVICE u32 ballot(bool x) {
    emulator::Ballot own{x, 0};
    emulator::meet<emulator::Ballot>(own, [](emulator::Ballot** lanes) {
        u32 all = 0;
        for (u32 l = 0; l < 32; ++l) all |= u32(lanes[l]->in) << l;
        for (u32 l = 0; l < 32; ++l) lanes[l]->out = all;
    });
    return own.out;
}

DEVICE u32 count_bits(u32 x) { return u32(__builtin_popcount(x)); }
DEVICE u32 atomic_add_shared(u32* p, u32 x) {
    u32 before = *p;
    *p += x;
    return before;
}
DEVICE void atomic_or(u32* p, u32 x) { __atomic_fetch_or(p, x, __ATOMIC_RELAXED); }
DEVICE u32 atomic_count(u32* p, u32 last) {
    u32 before = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &before, before >= last ? 0 : before + 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {}
    return before;
}

DEVICE float float_of_bits(u32 x) {
    float y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
DEVICE u32 bits_of_float(float x) {
    u32 y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

namespace emulator {
float f16_to_float(u16 bits);
u16 f16_from_float(float x);
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return float_of_bits(u32(x.bits) << 16); }
DEVICE float to_float(f16 x) { return emulator::f16_to_float(x.bits); }

template <class T> T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bf16 from_float<bf16>(float x) {
    u32 bits = bits_of_float(x);
    if (x != x) return {0x7fff};
    return {u16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <> inline f16 from_float<f16>(float x) { return {emulator::f16_from_float(x)}; }
template <class T> inline u32 pack(float low, float high) {
    return u32(from_float<T>(low).bits) | u32(from_float<T>(high).bits) << 16;
}

// Sine and cosine of pi * x: CUDA's function, which needs no reduction of large arguments, and so no stack memory.
DEVICE void sincospi(double x, double* sine, double* cosine) {
    *sine = std::sin(M_PI * x);
    *cosine = std::cos(M_PI * x);
}

DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float divide_fast(float x, float y) { return x / y; }

DEVICE void copy_async(void* shared, const void* global, bool valid = true) {
    emulator::block()->copy(shared, valid ? global : nullptr);
}
DEVICE void copy_async_commit() { emulator::block()->commit(); }
template <int N> DEVICE void copy_async_wait() { emulator::block()->wait(N); }

template <class T> inline void load_matrix(u32 (&r)[4], const T* row) {
    emulator::LoadMatrix own{r, reinterpret_cast<const u16*>(row)};
    emulator::meet<emulator::LoadMatrix>(own, [](emulator::LoadMatrix** lanes) {
        for (u32 l = 0; l < 32; ++l)
            for (u32 m = 0; m < 4; ++m) std::memcpy(&lanes[l]->out[m], lanes[8 * m + l / 4]->row + l % 4 * 2, 4);
    });
}
template <class T> inline void load_matrix_transposed(u32 (&r)[4], const T* row) {
    emulator::LoadMatrix own{r, reinterpret_cast<const u16*>(row)};
    emulator::meet<emulator::LoadMatrix>(own, [](emulator::LoadMatrix** lanes) {
        for (u32 l = 0; l < 32; ++l)
            for (u32 m = 0; m < 4; ++m) {
                const u32 first = 8 * m + l % 4 * 2;
                lanes[l]->out[m] = lanes[first]->row[l / 4] | u32(lanes[first + 1]->row[l / 4]) << 16;
            }
    });
}

template <class T> inline void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    emulator::Mma own{d, a, {b0, b1}};
    emulator::meet<emulator::Mma>(own, [](emulator::Mma** lanes) {
        auto value = [](u32 pair, u32 half) { return to_float(T{u16(half ? pair >> 16 : pair)}); };
        float a[16][16], b[16][8], d[16][8];
        for (u32 l = 0; l < 32; ++l) {
            const u32 row = l / 4, col = l % 4 * 2;
            for (u32 half = 0; half < 2; ++half) {
                for (u32 i = 0; i < 4; ++i) a[row + i % 2 * 8][col + i / 2 * 8 + half] = value(lanes[l]->a[i], half);
                for (u32 i = 0; i < 2; ++i) b[col + i * 8 + half][row] = value(lanes[l]->b[i], half);
                for (u32 i = 0; i < 2; ++i) d[row + i * 8][col + half] = lanes[l]->d[2 * i + half];
            }
        }
        for (u32 i = 0; i < 16; ++i)
            for (u32 k = 0; k < 16; ++k)
                for (u32 j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
        for (u32 l = 0; l < 32; ++l)
            for (u32 i = 0; i < 4; ++i) lanes[l]->d[i] = d[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2];
    });
}
