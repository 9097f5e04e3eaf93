// SPDX-License-Identifier: MPL-2.0
//
// The GEMM of gemm.cuh on Hopper with wgmma, the MMA of a warpgroup. Warp specialisation: of a block's three warpgroups
// the first, the producer, loads A and B into a ring of stages, each a k tile of 64; the other two, the consumers,
// compute one half of a tile's rows each. The producer's threads gather A (cp.async); one of them copies B by one bulk
// copy a stage, since the host packs it (src/backend/cuda/packing.rs) as [n / N][tap][channel / 64][N][64], swizzled,
// padded with zeros. The grid is persistent: the next tile's stages fill while a tile is stored.
//
// Registers: 168 for each of 384 threads (65536 in all), of which the producer gives some to the consumers
// (setmaxnreg), whose accumulators take 128.
#pragma once

#include "gemm.cuh"
#include "hopper.cuh"

namespace {

constexpr u32 CONSUMERS = 2, THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr u32 PRODUCER_REGISTERS = 104, CONSUMER_REGISTERS = 200;

// Values of k in a stage; 16-byte vectors of a row of it.
constexpr u32 BLOCK_K = TILE_COLUMNS, VECS = 8;

// A tile of M x N. A stage has 128 (M + N) bytes: four of them take 192 KiB of a block's 227 KiB.
template <u32 M_, u32 N_> struct Tile {
    static constexpr u32 M = M_, N = N_, STAGES = 4;
    // MMAs of 64 rows that a warpgroup issues for each 16 of k.
    static constexpr u32 M_TILES = M / (64 * CONSUMERS);
};

using T128x256 = Tile<128, 256>;
using T256x128 = Tile<256, 128>;

template <class T, class Tile> struct Stage {
    alignas(PATTERN_BYTES) T a[Tile::M * BLOCK_K];
    alignas(PATTERN_BYTES) T b[Tile::N * BLOCK_K];
};

// Bias and scale of a tile's columns in shared memory, as acc * scale + bias; each consumer has its own.
template <class Tile> struct TileBiasScale {
    alignas(16) float bias[Tile::N], scale[Tile::N];
};

template <class T, class Tile> struct Shared {
    Stage<T, Tile> stages[Tile::STAGES];
    // `full[i]`: stage i has been written. `empty[i]`: both consumers have read it.
    Barrier full[Tile::STAGES], empty[Tile::STAGES];
    TileBiasScale<Tile> columns[CONSUMERS];
};

template <class T> using T128x256Shared = Shared<T, T128x256>;
template <class T> using T256x128Shared = Shared<T, T256x128>;

// The batch of a tile, and its first row and column.
struct TileCoord {
    u32 batch, row, column;
};

// The coordinates of a tile, numbered over all batches.
template <class Tile, class Problem> DEVICE TileCoord tile_coord(const Problem& problem, u32 number) {
    const Gemm gemm = problem.template gemm<Tile>(0);
    const u32 tiles = count_tiles<Tile>(gemm);
    TileCoord coord{number / tiles, 0, 0};
    find_tile<Tile>(number % tiles, gemm, coord.row, coord.column);
    return coord;
}

// Arrives at `full` for this warp, whose copies into the stage have landed.
DEVICE void commit(Barrier& full) {
    async_proxy_fence();
    warp_barrier();
    if (lane() == 0) barrier_arrive(full);
}

// The producer: loads all tiles of the block. Eight threads copy a row of A, and so one row of every 16.
template <class T, class Tile, class Problem>
DEVICE void load(Shared<T, Tile>& shared, const Problem& problem, u32 tiles, u32 blocks) {
    constexpr u32 STRIDE = WARPGROUP / VECS, ROWS = Tile::M / STRIDE;
    const u32 first = thread() / VECS, vec = thread() % VECS;
    PipelineState<Tile::STAGES> state;
    // The barrier of the stage before, whose copies are in flight.
    Barrier* filling = nullptr;
#pragma unroll 1
    for (u32 tile = block_x(); tile < tiles; tile += blocks) {
        const TileCoord coord = tile_coord<Tile>(problem, tile);
        const Gemm gemm = problem.template gemm<Tile>(coord.batch);
        const T* b = static_cast<const T*>(gemm.b) + u64(coord.column) * gemm.depth;
        auto a = problem.a(coord.batch);
        typename Problem::A::Row rows[ROWS];
#pragma unroll
        for (u32 i = 0; i < ROWS; ++i) rows[i] = a.row(coord.row + first + i * STRIDE);
#pragma unroll 1
        for (u32 tap = 0; tap < gemm.taps; ++tap) {
            const T* sources[ROWS];
            a.enter(tap);
#pragma unroll
            for (u32 i = 0; i < ROWS; ++i) sources[i] = a.channels(rows[i]);
#pragma unroll 1
            for (u32 channel = 8 * vec; channel < gemm.inputs + 8 * vec; channel += BLOCK_K) {
                auto& stage = shared.stages[state.index];
                Barrier& full = shared.full[state.index];
                barrier_wait(shared.empty[state.index], state.phase ^ 1);
                if (thread() == 0) {
                    barrier_arrive_expect(full, sizeof stage.b);
                    copy_bulk(stage.b, b, sizeof stage.b, full);
                }
#pragma unroll
                for (u32 i = 0; i < ROWS; ++i) {
                    const bool inside = sources[i] && channel < gemm.inputs;
                    copy_async(stage.a + swizzle(first + i * STRIDE, vec),
                               inside ? sources[i] + channel : b, inside);
                }
                copy_async_commit();
                if (filling) {
                    copy_async_wait<1>();
                    commit(*filling);
                }
                filling = &full;
                b += Tile::N * BLOCK_K;
                state.advance();
            }
        }
    }
    copy_async_wait<0>();
    if (filling) commit(*filling);
}

// Loads bias and scale of a tile's columns, some columns for each thread of a consumer.
template <class Tile, class Epilogue> struct BiasScaleLoader {
    static constexpr u32 COUNT = Tile::N / WARPGROUP;
    BiasScale<1> columns[COUNT];

    // Loads into registers, before the main loop, which hides the latency.
    METHOD void load(const Epilogue& epilogue, const TileCoord& coord) {
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) {
            const u32 column = coord.column + thread() % WARPGROUP + i * WARPGROUP;
            const bool inside = epilogue.in_bounds(coord.row, column);
            columns[i] = inside ? epilogue.template bias_scale<1>(column) : BiasScale<1>{};
        }
    }

    // Stores to shared memory, between two barriers: all threads have read those of the tile before, and read these
    // after.
    METHOD void store(TileBiasScale<Tile>& all) const {
        named_barrier(warpgroup(), WARPGROUP);
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) {
            const u32 column = thread() % WARPGROUP + i * WARPGROUP;
            const float scale = columns[i].scale.values[0];
            all.scale[column] = scale;
            all.bias[column] = columns[i].bias.values[0] * scale;
        }
        named_barrier(warpgroup(), WARPGROUP);
    }
};

// Transposes within a quad, four lanes that share a row. Before: lane q holds columns 2q, 2q + 1 of each of four
// 8-column groups. After: lane q holds all eight columns of group q, in groups[p] those that lane p had, so that it can
// store 16 bytes.
DEVICE void transpose_quad(float (&groups)[4][2]) {
    const u32 own = lane() % 4;
#pragma unroll
    for (u32 bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (u32 g = 0; g < 4; ++g)
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                if (g & bit) continue;
                float &low = groups[g][i], &high = groups[g | bit][i];
                const bool upper = own & bit;
                const float other = shuffle_xor(upper ? low : high, bit);
                (upper ? low : high) = other;
            }
}

// Runs the epilogue on the accumulators of a consumer, eight columns at once; the residual is prefetched.
template <class T, class Tile, class Epilogue>
DEVICE void store_tile(const float (&acc)[Tile::M_TILES][Tile::N / 2], const Epilogue& epilogue,
                       const TileBiasScale<Tile>& columns, u32 first_row, u32 first_column) {
    // All rows of 32 columns before the next 32, so that few values of bias and scale occupy registers.
    constexpr u32 HALVES = 2 * Tile::M_TILES, STEPS = HALVES * Tile::N / 32, AHEAD = 4;
    const u32 own = 8 * (lane() % 4);
    first_row += warp() % 4 * 16 + lane() / 4;
    // Computed once: an offset may take divisions.
    u64 offsets[HALVES];
#pragma unroll
    for (u32 i = 0; i < HALVES; ++i) offsets[i] = epilogue.row_offset(first_row + i / 2 * 64 + i % 2 * 8);
    // The residual of the next AHEAD steps, unconverted, which takes half of the registers.
    Vector<u32, 4> prefetched[AHEAD];
#pragma unroll
    for (u32 ahead = 0; ahead < STEPS + AHEAD; ++ahead) {
        if (ahead >= AHEAD) {
            const u32 step = ahead - AHEAD, group = step / HALVES, m = step % HALVES / 2, half = step % 2;
            const u32 row = first_row + 64 * m + 8 * half, column = 32 * group + own;
            float groups[4][2];
#pragma unroll
            for (u32 i = 0; i < 8; ++i) groups[i / 2][i % 2] = acc[m][16 * group + i / 2 * 4 + 2 * half + i % 2];
            transpose_quad(groups);
            const auto bias = load_vector<8>(columns.bias + column), scale = load_vector<8>(columns.scale + column);
            Vector<float, 8> y;
#pragma unroll
            for (u32 i = 0; i < 8; ++i)
                y.values[i] = groups[i / 2][i % 2] * scale.values[i] + bias.values[i];
            Vector<float, 8> residual;
#pragma unroll
            for (u32 i = 0; i < 8; ++i)
                residual.values[i] = to_float(T{u16(prefetched[step % AHEAD].values[i / 2] >> i % 2 * 16)});
            if (epilogue.in_bounds(row, first_column + column))
                epilogue.store(offsets[step % HALVES], first_column + column, y, residual);
        }
        if (ahead < STEPS) {
            const u32 row = first_row + ahead % HALVES / 2 * 64 + ahead % 2 * 8;
            const u32 column = first_column + ahead / HALVES * 32 + own;
            prefetched[ahead % AHEAD] = {};
            if (epilogue.residual() && epilogue.in_bounds(row, column))
                prefetched[ahead % AHEAD] =
                    *reinterpret_cast<const Vector<u32, 4>*>(epilogue.residual() + offsets[ahead % HALVES] + column);
        }
    }
}

// The main loop: issues the MMAs of a tile for the consumer's rows from `first` on. Releases every stage but the last
// one, which the latest group may still read; returns the `empty` barrier of that one.
template <class T, class Tile>
DEVICE Barrier& mma(Shared<T, Tile>& shared, float (&acc)[Tile::M_TILES][Tile::N / 2],
                    PipelineState<Tile::STAGES>& state, u32 first, u32 k_tiles) {
    Barrier* reading = nullptr;
#pragma unroll 1
    for (u32 k_tile = 0; k_tile < k_tiles; ++k_tile) {
        const auto& stage = shared.stages[state.index];
        barrier_wait(shared.full[state.index], state.phase);
        warpgroup_fence(acc);
#pragma unroll
        for (u32 k = 0; k < BLOCK_K; k += 16)
#pragma unroll
            for (u32 m = 0; m < Tile::M_TILES; ++m)
                wgmma<T>(acc[m], k_major(stage.a + (first + 64 * m) * BLOCK_K, k), k_major(stage.b, k),
                         (k_tile | k) > 0);
        warpgroup_commit();
        warpgroup_wait<1>();
        if (reading && lane() == 0) barrier_arrive(*reading);
        reading = &shared.empty[state.index];
        state.advance();
    }
    return *reading;
}

// A consumer: main loop and epilogue of all tiles of the block.
template <class T, class Tile, class Problem>
DEVICE void compute(Shared<T, Tile>& shared, const Problem& problem, u32 tiles, u32 blocks) {
    const u32 first = (warpgroup() - 1) * Tile::M_TILES * 64;
    float acc[Tile::M_TILES][Tile::N / 2];
    PipelineState<Tile::STAGES> state;
#pragma unroll 1
    for (u32 tile = block_x(); tile < tiles; tile += blocks) {
        const TileCoord coord = tile_coord<Tile>(problem, tile);
        const Gemm gemm = problem.template gemm<Tile>(coord.batch);
        const auto epilogue = problem.epilogue(coord.batch);
        BiasScaleLoader<Tile, decltype(problem.epilogue(0))> columns;
        columns.load(epilogue, coord);
        Barrier& last = mma<T, Tile>(shared, acc, state, first, gemm.taps * divide_up(gemm.inputs, BLOCK_K));
        columns.store(shared.columns[warpgroup() - 1]);
        warpgroup_wait<0>(acc);
        if (lane() == 0) barrier_arrive(last);
        store_tile<T, Tile>(acc, epilogue, shared.columns[warpgroup() - 1], coord.row + first, coord.column);
    }
}

// Computes every `blocks`-th tile of all batches: a persistent kernel.
template <class T, class Tile, class Problem> DEVICE void gemm(const Problem& problem, u32 batches, u32 blocks) {
    auto& shared = shared_memory<Shared<T, Tile>>();
    if (thread() == 0) {
        for (u32 i = 0; i < Tile::STAGES; ++i) {
            // `full` counts the producer's warps and the one thread that expects the bytes of B, `empty` the consumers'
            // warps.
            barrier_init(shared.full[i], WARPGROUP / WARP + 1);
            barrier_init(shared.empty[i], CONSUMERS * WARPGROUP / WARP);
        }
        barrier_init_fence();
    }
    block_barrier();
    const u32 tiles = batches * count_tiles<Tile>(problem.template gemm<Tile>(0));
    if (warpgroup() == 0) {
        registers_decrease<PRODUCER_REGISTERS>();
        load(shared, problem, tiles, blocks);
    } else {
        registers_increase<CONSUMER_REGISTERS>();
        compute(shared, problem, tiles, blocks);
    }
}

}
