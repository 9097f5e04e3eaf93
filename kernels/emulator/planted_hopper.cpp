// SPDX-License-Identifier: MPL-2.0
//
// Kernels with and without planted mistakes in the use of Hopper's primitives (../hopper.cuh). Only tests run them.

#include "../hopper.cuh"

namespace {

constexpr u32 COLUMNS = 64, BLOCK_K = 64, K_TILES = 5, STAGES = 2;
constexpr u32 PRODUCER = WARPGROUP;

struct PlantedArgs {
    // A and B of each k tile, in the layout of shared memory.
    const bf16* operands;
    float* out;
};

constexpr u32 OPERAND = 64 * 64;

struct PlantedShared {
    struct {
        alignas(1024) bf16 a[OPERAND];
        alignas(1024) bf16 b[OPERAND];
    } stages[STAGES];
    Barrier full[STAGES], empty[STAGES];
};

enum Mistake {
    NONE,
    NO_PROXY_FENCE,
    EARLY_OVERWRITE,
    NO_MMA_WAIT,
    WRONG_SWIZZLE,
    WRONG_STRIDE,
    NO_MMA_FENCE,
    TOO_FEW_BYTES,
    WRONG_PARITY,
    NO_BARRIER_FENCE,
    TOUCHED_ACCUMULATORS,
    EARLY_RELEASE,
};

// The producer of a GEMM: A comes by copy_async through the threads of a warpgroup, B by a bulk copy.
template <Mistake MISTAKE> DEVICE void load(const PlantedArgs& args, PlantedShared& shared) {
    const u32 own = thread() - PRODUCER;
    for (u32 k_tile = 0; k_tile < K_TILES; ++k_tile) {
        const u32 s = k_tile % STAGES;
        auto& stage = shared.stages[s];
        if (MISTAKE != EARLY_OVERWRITE) barrier_wait(shared.empty[s], k_tile / STAGES % 2 ^ 1);
        const bf16* a = args.operands + 2 * k_tile * OPERAND;
        if (own == 0) {
            barrier_arrive_expect(shared.full[s], 2 * OPERAND);
            copy_bulk(stage.b, a + OPERAND, MISTAKE == TOO_FEW_BYTES ? OPERAND : 2 * OPERAND, shared.full[s]);
        }
        for (u32 i = own; i < OPERAND / 8; i += WARPGROUP) copy_async(stage.a + 8 * i, a + 8 * i);
        copy_async_commit();
        copy_async_wait<0>();
        if (MISTAKE != NO_PROXY_FENCE) async_proxy_fence();
        barrier_arrive(shared.full[s]);
    }
}

template <Mistake MISTAKE, bool MN_MAJOR> DEVICE void compute(const PlantedArgs& args, PlantedShared& shared) {
    float acc[COLUMNS / 2];
    for (u32 k_tile = 0; k_tile < K_TILES; ++k_tile) {
        const u32 s = k_tile % STAGES;
        auto& stage = shared.stages[s];
        barrier_wait(shared.full[s], (k_tile / STAGES ^ (MISTAKE == WRONG_PARITY)) % 2);
        if (MISTAKE != NO_MMA_FENCE) warpgroup_fence(acc);
        for (u32 k = 0; k < BLOCK_K; k += 16) {
            u64 b = MN_MAJOR ? mn_major(stage.b, 0, k) : k_major(stage.b, k);
            if (MISTAKE == WRONG_SWIZZLE) b ^= u64(3) << 62;
            if (MISTAKE == WRONG_STRIDE) b ^= u64(PATTERN_BYTES >> 4 ^ 16) << 32;
            wgmma<bf16, MN_MAJOR>(acc, k_major(stage.a, k), b, k_tile + k > 0);
        }
        warpgroup_commit();
        if (MISTAKE == TOUCHED_ACCUMULATORS) acc[0] = 1;
        // With the mistake, this k tile's MMA may still read the stage when it is released.
        if (MISTAKE == EARLY_RELEASE) warpgroup_wait<1>();
        else if (MISTAKE != NO_MMA_WAIT) warpgroup_wait<0>(acc);
        if (lane() == 0) barrier_arrive(shared.empty[s]);
    }
    if (MISTAKE == EARLY_RELEASE) warpgroup_wait<0>(acc);
    const u32 row = 16 * warp() + lane() / 4, column = lane() % 4 * 2;
    for (u32 i = 0; i < COLUMNS / 2; ++i)
        args.out[(row + i / 2 % 2 * 8) * COLUMNS + column + i / 4 * 8 + i % 2] = acc[i];
    if (MISTAKE == NO_MMA_WAIT) warpgroup_wait<0>(acc);
}

template <Mistake MISTAKE, bool MN_MAJOR = false> DEVICE void gemm(const PlantedArgs& args) {
    auto& shared = shared_memory<PlantedShared>();
    if (thread() == 0) {
        for (u32 s = 0; s < STAGES; ++s) {
            barrier_init(shared.full[s], WARPGROUP + 1);
            barrier_init(shared.empty[s], WARPGROUP / WARP);
        }
        if (MISTAKE != NO_BARRIER_FENCE) barrier_init_fence();
    }
    block_barrier();
    if (warpgroup() == 0) compute<MISTAKE, MN_MAJOR>(args, shared);
    else load<MISTAKE>(args, shared);
}

}

#define PLANTED(name, ...)                                                                              \
    KERNEL(planted_wgmma##name, 2 * WARPGROUP, PlantedShared, PlantedArgs) { gemm<__VA_ARGS__>(args); }

PLANTED(, NONE)
PLANTED(_mn_major, NONE, true)
PLANTED(_without_proxy_fence, NO_PROXY_FENCE)
PLANTED(_overwritten_early, EARLY_OVERWRITE)
PLANTED(_without_wait, NO_MMA_WAIT)
PLANTED(_with_wrong_swizzle, WRONG_SWIZZLE)
PLANTED(_with_wrong_stride, WRONG_STRIDE)
PLANTED(_without_fence, NO_MMA_FENCE)
PLANTED(_with_too_few_bytes, TOO_FEW_BYTES)
PLANTED(_with_wrong_parity, WRONG_PARITY)
PLANTED(_without_barrier_fence, NO_BARRIER_FENCE)
PLANTED(_with_touched_accumulators, TOUCHED_ACCUMULATORS)
PLANTED(_released_early, EARLY_RELEASE)

struct WideShared {
    alignas(1024) bf16 b[2 * OPERAND];
};

// A from registers, and 128 columns in two tiles. A named barrier orders two warpgroups.
KERNEL(planted_wgmma_from_registers, 2 * WARPGROUP, WideShared, PlantedArgs) {
    auto& shared = shared_memory<WideShared>();
    if (thread() >= PRODUCER) {
        for (u32 i = 8 * (thread() - PRODUCER); i < 2 * OPERAND; i += 8 * WARPGROUP)
            store_shared(shared.b + i, *reinterpret_cast<const Vector<bf16, 8>*>(args.operands + OPERAND + i));
        async_proxy_fence();
        return named_barrier_arrive(1, 2 * WARPGROUP);
    }
    u32 a[BLOCK_K / 16][4];
    const u32 row = 16 * warp() + lane() / 4, column = lane() % 4 * 2;
    for (u32 k = 0; k < BLOCK_K / 16; ++k)
        for (u32 i = 0; i < 4; ++i) {
            const bf16* pair = args.operands + swizzle(row + i % 2 * 8, 2 * k + i / 2) + column;
            a[k][i] = pair[0].bits | u32(pair[1].bits) << 16;
        }
    named_barrier(1, 2 * WARPGROUP);
    float acc[COLUMNS];
    for (float& value : acc) value = 1;
    warpgroup_fence(acc, a);
    for (u32 k = 0; k < BLOCK_K / 16; ++k)
        wgmma<bf16, true>(acc, a[k], mn_major(shared.b, 2 * OPERAND, 16 * k));
    warpgroup_commit();
    warpgroup_wait<0>(acc, a);
    for (u32 i = 0; i < COLUMNS; ++i)
        args.out[(row + i / 2 % 2 * 8) * 2 * COLUMNS + column + i / 4 * 8 + i % 2] = acc[i];
}
