// SPDX-License-Identifier: MPL-2.0
//
// The primitives of all kernels. A kernel uses these and plain C++, nothing else, so that one source runs on a GPU
// (device.cuh: inline PTX) and on a CPU (emulator/device.h: the same meaning, slowly).
//
//   KERNEL(name, threads, Shared, Args)   defines a kernel: blocks of `threads` threads in one dimension, a block's
//                                         shared memory as one struct (NoShared: none), one struct of arguments `args`
//   KERNELS(name, threads, Shared, Args)  the same, for the storage types float, bf16 and f16, as templates of the type
//   KERNEL_RESIDENT, KERNELS_RESIDENT     the same with, after the threads, the blocks that an SM shall hold at once
//                                         (__launch_bounds__ limits registers to that; for KERNELS_, as blocks<T>)
//   DEVICE, METHOD                        stand before a function of a kernel, and before a member of a struct
//   thread(), block_x/y/z()               thread and block indices
//   block_barrier(), warp_barrier()       barriers of all threads of the block, of the warp
//   shared_memory<Shared>()               the block's shared memory
//   shuffle_xor, ballot                   exchange values between the lanes of a warp
//   atomic_add_shared                     an atomic addition in shared memory
//   atomic_or, atomic_count               atomic operations in global memory
//   copy_async, _commit, _wait            asynchronous copies of 16 bytes from global to shared memory (cp.async)
//   load_matrix, _transposed, mma_m16n8k16    fragments of the tensor cores: ldmatrix, mma.sync
//   to_float, from_float, pack            storage types: values are stored as float, bf16 or f16 and computed in f32
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// Brain float: the upper half of a float.
struct bf16 {
    u16 bits;
};

// IEEE half.
struct f16 {
    u16 bits;
};

struct NoShared {};

#ifdef FLASHVSR_EMULATOR
#include "emulator/device.h"
#else
#include "device.cuh"
#endif

#define KERNELS(name, threads, Shared, Args)                                                            \
    KERNEL(name##_f32, threads, Shared<float>, Args) { name<float>(args); }                             \
    KERNEL(name##_bf16, threads, Shared<bf16>, Args) { name<bf16>(args); }                              \
    KERNEL(name##_f16, threads, Shared<f16>, Args) { name<f16>(args); }

#define KERNELS_RESIDENT(name, threads, blocks, Shared, Args)                                           \
    KERNEL_RESIDENT(name##_f32, threads, blocks<float>, Shared<float>, Args) { name<float>(args); }     \
    KERNEL_RESIDENT(name##_bf16, threads, blocks<bf16>, Shared<bf16>, Args) { name<bf16>(args); }       \
    KERNEL_RESIDENT(name##_f16, threads, blocks<f16>, Shared<f16>, Args) { name<f16>(args); }

// The Shared of KERNELS for kernels that need no shared memory.
template <class T> using NoSharedFor = NoShared;

constexpr u32 WARP = 32;

DEVICE u32 lane() { return thread() % WARP; }
DEVICE u32 warp() { return thread() / WARP; }

// N values that one access reads or writes.
template <class T, int N> struct alignas(sizeof(T) * N) Vector {
    T values[N];
};

// The number of values in 16 bytes.
template <class T> constexpr int PER_16_BYTES = 16 / int(sizeof(T));

template <class T> constexpr T min(T a, T b) { return a < b ? a : b; }
template <class T> constexpr T max(T a, T b) { return a > b ? a : b; }
template <class T> constexpr T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class T> constexpr T divide_up(T a, T b) { return (a + b - 1) / b; }

DEVICE float warp_sum(float x) {
    for (u32 step = WARP / 2; step > 0; step /= 2) x += shuffle_xor(x, step);
    return x;
}

DEVICE float warp_max(float x) {
    for (u32 step = WARP / 2; step > 0; step /= 2) x = fmaxf(x, shuffle_xor(x, step));
    return x;
}
