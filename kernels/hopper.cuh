// SPDX-License-Identifier: MPL-2.0
//
// Primitives that only Hopper has, beside those of prims.cuh: for files whose names begin with hopper_, which are
// compiled for it alone. An MMA of four warps (a warpgroup) reads shared memory and runs asynchronously.
//
//   KERNELS_HOPPER(name, threads, Shared, Args)    KERNELS for bf16 and f16; one block on an SM
//   Barrier, barrier_init, _init_fence, _arrive, _arrive_expect, _wait    barriers in shared memory (mbarrier): a phase
//                             completes when all arrivals and all expected bytes have come; phases have the parities
//                             0, 1, 0, ..., and a wait for parity 1 of a new barrier returns at once
//   copy_bulk                 copies contiguous bytes from global to shared memory; a barrier counts them
//   async_proxy_fence         makes this thread's writes to shared memory (copy_async included, after its wait) visible
//                             to MMAs and bulk copies; comes before a barrier
//   store_shared              stores 16 bytes for MMAs to read: the emulator shows them no other store
//   wgmma                     acc (64 x N, f32) += a (64 x 16) * b (16 x N): wgmma.mma_async m64nNk16
//   warpgroup_fence, _commit, _wait    begin a group of MMAs, end it, wait for all but the latest groups
//   registers_decrease, _increase      change the registers of a warpgroup's threads from those at launch (setmaxnreg)
//   named_barrier, _arrive    a barrier of some warps of a block: numbers 1 to 15
//
// Matrices in shared memory. A and B consist of tiles of rows of 128 bytes, 64 values, that begin at a multiple of 1024
// bytes. The eight 16-byte vectors of a row are swizzled: vector p of row r lies at p ^ r % 8 (PTX manual,
// "Asynchronous Warpgroup Level Matrix Shared Memory Layout", 128-byte swizzling). A row is, by the major-ness of the
// matrix:
//
//   k_major    a row of A, or a column of B: 64 values of k. Tiles follow each other every 8 rows,
//              so that any number of rows is one block of memory; 16 values of k are 32 bytes.
//   mn_major   one k: 64 columns of B. Eight k lie together in 1024 bytes, and 16 in 2048; each further 64
//              columns lie `leading` bytes further on.
//
// In CUTLASS's notation (cute/atom/mma_traits_sm90_gmma.hpp, make_gmma_desc), in values of 16 bits: k_major is
// Swizzle<3,4,3> o ((8,m),(8,2)) : ((64,SBO),(1,8)) with SBO = 1024 bytes, and mn_major Swizzle<3,4,3> o
// ((8,8,m),(8,k)) : ((1,8,LBO),(64,SBO)) with SBO = 1024 bytes and LBO = `leading`.
//
// Accumulator i of a thread, 0 <= i < N / 2, belongs to row 16 * (warp % 4) + lane / 4 + 8 * (i / 2 % 2) and column
// 8 * (i / 4) + lane % 4 * 2 + i % 2. A in registers consists of the fragments of mma_m16n8k16 for the warp's 16 rows.
#pragma once

#include "prims.cuh"

constexpr u32 WARPGROUP = 128;

DEVICE u32 warpgroup() { return thread() / WARPGROUP; }

// An mbarrier; its state is opaque.
struct Barrier {
    u64 state;
};

// The next stage of a ring, and the parity of its barriers' phase. A consumer waits for `full` with that parity, a
// producer for `empty` with the opposite one, which a new barrier has passed: at first all stages are empty.
template <u32 STAGES> struct PipelineState {
    u32 index = 0, phase = 0;

    METHOD void advance() {
        if (++index < STAGES) return;
        index = 0;
        phase ^= 1;
    }
};

// Values of a row of a tile; bytes of eight rows, after which the swizzling repeats.
constexpr u32 TILE_COLUMNS = 64, PATTERN_BYTES = 1024;

// The offset of a 16-byte vector of a row in a tile, in values of 16 bits.
DEVICE u32 swizzle(u32 row, u32 vec) { return row * TILE_COLUMNS + (vec ^ row % 8) * 8; }

// A matrix descriptor (PTX manual): start address, leading and stride byte offset in units of 16 bytes at
// bits 0, 16 and 32; the swizzling mode at bit 62 (1: 128 bytes).
DEVICE u64 matrix_descriptor(u32 start, u32 leading, u32 stride) {
    return u64(start >> 4 & 0x3fff) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | u64(1) << 62;
}

#ifdef FLASHVSR_EMULATOR
#include "emulator/hopper.h"
#else
#include "hopper_device.cuh"
#endif

#define KERNELS_HOPPER(name, threads, Shared, Args)                                                     \
    KERNEL_RESIDENT(name##_bf16, threads, 1, Shared<bf16>, Args) { name<bf16>(args); }                  \
    KERNEL_RESIDENT(name##_f16, threads, 1, Shared<f16>, Args) { name<f16>(args); }

// The descriptor of a K-major matrix from its k-th value on; k is a multiple of 16. The leading offset is not used.
DEVICE u64 k_major(const void* tiles, u32 k = 0) {
    return matrix_descriptor(shared_address(tiles) + 2 * k, 16, PATTERN_BYTES);
}
// The descriptor of an MN-major matrix from its k-th row on; k is a multiple of 16.
DEVICE u64 mn_major(const void* tiles, u32 leading, u32 k = 0) {
    return matrix_descriptor(shared_address(tiles) + 2 * TILE_COLUMNS * k, leading, PATTERN_BYTES);
}
