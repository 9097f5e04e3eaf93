// SPDX-License-Identifier: MPL-2.0
//
// The GEMM of gemm.cuh on every GPU since Ampere. B is packed as [n][tap][channel] with n filled up to whole tiles and
// channels to whole k tiles, so that it is read without a check.
//
// Tiles pass through shared memory in a ring of stages of which each holds a k tile of 64 bytes. The four 16-byte
// vectors of a row are swizzled by bits 1 and 2 of its number: eight rows that lie one above the other then fill all
// banks once, when they are written and when ldmatrix reads them. bf16 and f16 go through the tensor cores, f32 through
// plain FMA.
#pragma once

#include "gemm.cuh"

namespace {

constexpr u32 THREADS = 256;
constexpr u32 WARPS = THREADS / WARP;
// Blocks on an SM: while one waits at its barrier, the other issues MMAs.
template <class T> constexpr u32 BLOCKS = sizeof(T) == 2 ? 2 : 1;
// 16-byte vectors of a row of a stage, and values of k in it.
constexpr u32 VECS = 4;
template <class T> constexpr u32 BLOCK_K = VECS * PER_16_BYTES<T>;

// A tile of M x N with STAGES stages; the eight warps of a block stand in WARPS_M rows.
template <u32 M_, u32 N_, u32 STAGES_, u32 WARPS_M> struct Tile {
    static constexpr u32 M = M_, N = N_, STAGES = STAGES_;
    // Warps along n and the part of the tile that a warp computes, for the tensor cores.
    static constexpr u32 WARPS_N = WARPS / WARPS_M, WARP_M = M / WARPS_M, WARP_N = N / WARPS_N;
    // Threads along n and m, for FMA.
    static constexpr u32 THREADS_N = N < 64 ? N / 4 : 16, THREADS_M = THREADS / THREADS_N;
    // Pitch of a slab, padded so that two values of each of four rows fill all banks.
    static constexpr u32 PITCH = WARP_N + 8;
};

using T128x128 = Tile<128, 128, 3, 2>;
using T128x64 = Tile<128, 64, 4, 4>;
using T256x16 = Tile<256, 16, 3, 8>;

template <class T, class Tile> union Shared {
    struct {
        alignas(128) T a[Tile::M * BLOCK_K<T>];
        alignas(128) T b[Tile::N * BLOCK_K<T>];
    } stages[Tile::STAGES];
    // A slab of each warp, by which the epilogue turns the layout of the accumulators into rows.
    alignas(128) float slabs[WARPS][16 * Tile::PITCH];
};

template <class T> using T128x128Shared = Shared<T, T128x128>;
template <class T> using T128x64Shared = Shared<T, T128x64>;
template <class T> using T256x16Shared = Shared<T, T256x16>;

// The offset of a 16-byte vector of a row in a stage, swizzled.
template <class T> DEVICE u32 swizzle(u32 row, u32 vec) {
    return row * BLOCK_K<T> + (vec ^ (row / 2 % VECS)) * PER_16_BYTES<T>;
}

// The state of a thread that fills stages: it loads the same 16-byte vector of several rows of A and of columns of B.
template <class T, class Tile, class A> struct Loader {
    static constexpr u32 STRIDE = THREADS / VECS, ROWS = Tile::M / STRIDE, B_COPIES = divide_up(Tile::N, STRIDE);

    A a;
    typename A::Row rows[ROWS];
    const T* sources[ROWS];
    const T* b;
    u32 depth, inputs, taps, tap, channel;
};

template <class T, class Tile, class A> DEVICE void find_sources(Loader<T, Tile, A>& own) {
    own.a.enter(own.tap);
#pragma unroll
    for (u32 i = 0; i < own.ROWS; ++i) own.sources[i] = own.a.channels(own.rows[i]);
}

// Sets a loader to the first k tile of the tile at `row` and `column`.
template <class T, class Tile, class A>
DEVICE void start(Loader<T, Tile, A>& own, const Gemm& gemm, u32 row, u32 column) {
    const u32 first = thread() / VECS, vec = thread() % VECS;
    own.depth = gemm.depth;
    own.inputs = gemm.inputs;
    own.taps = gemm.taps;
    own.tap = own.channel = 0;
    const T* b = static_cast<const T*>(gemm.b) + u64(column + first) * gemm.depth;
    own.b = b + vec * PER_16_BYTES<T>;
#pragma unroll
    for (u32 i = 0; i < own.ROWS; ++i) own.rows[i] = own.a.row(row + first + i * own.STRIDE);
    find_sources(own);
}

// Starts the copies of the next k tile. Channels go one by one where a row's bytes are not a multiple of 16.
template <bool ALIGNED, class T, class Tile, class A>
DEVICE void load(Loader<T, Tile, A>& own, T* a, T* b) {
    constexpr u32 N = PER_16_BYTES<T>;
    const u32 row = thread() / VECS, vec = thread() % VECS, channel = own.channel + vec * N;
#pragma unroll
    for (u32 i = 0; i < own.ROWS; ++i) {
        T* to = a + swizzle<T>(row + i * own.STRIDE, vec);
        const T* from = own.sources[i] + channel;
        if (ALIGNED) {
            const bool inside = own.sources[i] && channel < own.inputs;
            copy_async(to, inside ? from : own.b, inside);
        } else {
            Vector<T, N> values;
#pragma unroll
            for (u32 j = 0; j < N; ++j)
                values.values[j] = own.sources[i] && channel + j < own.inputs ? from[j] : from_float<T>(0.0f);
            *reinterpret_cast<Vector<T, N>*>(to) = values;
        }
    }
#pragma unroll
    for (u32 i = 0; i < own.B_COPIES; ++i)
        if (Tile::N % own.STRIDE == 0 || row < Tile::N)
            copy_async(b + swizzle<T>(row + i * own.STRIDE, vec), own.b + u64(i * own.STRIDE) * own.depth);
    own.b += BLOCK_K<T>;
    own.channel += BLOCK_K<T>;
    if (own.channel < own.inputs) return;
    own.channel = 0;
    if (++own.tap < own.taps) find_sources(own);
}

// The accumulators of a thread, for the tensor cores: fragments of 16 rows and 8 columns.
template <class T, class Tile> struct Accumulators {
    static constexpr u32 M = Tile::WARP_M / 16, N = Tile::WARP_N / 8;
    float values[M][N][4];
};

// The accumulators of a thread for FMA: every THREADS_M-th row and THREADS_N-th column.
template <class Tile> struct Accumulators<float, Tile> {
    static constexpr u32 M = Tile::M / Tile::THREADS_M, N = Tile::N / Tile::THREADS_N;
    float values[M][N];
};

template <class Tile> DEVICE void clear(Accumulators<float, Tile>& acc) {
    for (auto& row : acc.values)
        for (float& value : row) value = 0;
}
template <class T, class Tile> DEVICE void clear(Accumulators<T, Tile>& acc) {
    for (auto& row : acc.values)
        for (auto& fragment : row)
            for (float& value : fragment) value = 0;
}

// Multiplies the k tile of a stage, acc += a * b.
template <class Tile> DEVICE void mma(Accumulators<float, Tile>& acc, const float* a_tile, const float* b_tile) {
    constexpr u32 M = Accumulators<float, Tile>::M, N = Accumulators<float, Tile>::N;
    const u32 row = thread() / Tile::THREADS_N, column = thread() % Tile::THREADS_N;
#pragma unroll 2
    for (u32 vec = 0; vec < VECS; ++vec) {
        Vector<float, 4> a[M];
#pragma unroll
        for (u32 m = 0; m < M; ++m)
            a[m] = *reinterpret_cast<const Vector<float, 4>*>(a_tile + swizzle<float>(row + m * Tile::THREADS_M, vec));
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
            const auto b =
                *reinterpret_cast<const Vector<float, 4>*>(b_tile + swizzle<float>(column + n * Tile::THREADS_N, vec));
#pragma unroll
            for (u32 m = 0; m < M; ++m)
#pragma unroll
                for (u32 k = 0; k < 4; ++k) acc.values[m][n] += a[m].values[k] * b.values[k];
        }
    }
}

template <class T, class Tile> DEVICE void mma(Accumulators<T, Tile>& acc, const T* a_tile, const T* b_tile) {
    constexpr u32 M = Accumulators<T, Tile>::M, N = Accumulators<T, Tile>::N;
    // Lanes 0..16 address the rows of a fragment at one vector, the others at the next (PTX manual, ldmatrix,
    // m16n8k16).
    const u32 row = warp() / Tile::WARPS_N * Tile::WARP_M + lane() % 16, next = lane() / 16;
    // Two fragments of B at once: lanes 0..8 and 8..16 address the two vectors of one, lanes 16..32 those of the other.
    const u32 column = warp() % Tile::WARPS_N * Tile::WARP_N + lane() / 16 * 8 + lane() % 8, half = lane() / 8 % 2;
#pragma unroll
    for (u32 vec = 0; vec < VECS; vec += 2) {
        u32 a[M][4];
#pragma unroll
        for (u32 m = 0; m < M; ++m) load_matrix(a[m], a_tile + swizzle<T>(row + 16 * m, vec + next));
#pragma unroll
        for (u32 n = 0; n < N; n += 2) {
            u32 b[4];
            load_matrix(b, b_tile + swizzle<T>(column + 8 * n, vec + half));
#pragma unroll
            for (u32 m = 0; m < M; ++m) {
                mma_m16n8k16<T>(acc.values[m][n], a[m], b[0], b[1]);
                mma_m16n8k16<T>(acc.values[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Runs the epilogue on the accumulators of a tile.
template <class Tile, class Epilogue>
DEVICE void store_tile(Accumulators<float, Tile>& acc, Shared<float, Tile>&, const Epilogue& epilogue, u32 row,
                       u32 column) {
    constexpr u32 M = Accumulators<float, Tile>::M, N = Accumulators<float, Tile>::N;
    row += thread() / Tile::THREADS_N;
    column += thread() % Tile::THREADS_N;
#pragma unroll
    for (u32 m = 0; m < M; ++m)
#pragma unroll
        for (u32 n = 0; n < N; ++n) {
            Vector<float, 1> value{{acc.values[m][n]}};
            store_accumulators<float>(epilogue, row + m * Tile::THREADS_M, column + n * Tile::THREADS_N, value);
        }
}

template <class T, class Tile, class Epilogue>
DEVICE void store_tile(Accumulators<T, Tile>& acc, Shared<T, Tile>& shared, const Epilogue& epilogue, u32 row,
                       u32 column) {
    constexpr u32 M = Accumulators<T, Tile>::M, N = Accumulators<T, Tile>::N;
    constexpr u32 CHUNKS = Tile::WARP_N / 8;
    float* slab = shared.slabs[warp()];
    row += warp() / Tile::WARPS_N * Tile::WARP_M;
    column += warp() % Tile::WARPS_N * Tile::WARP_N;
    block_barrier();
#pragma unroll
    for (u32 m = 0; m < M; ++m) {
        float* to = slab + lane() / 4 * Tile::PITCH + lane() % 4 * 2;
#pragma unroll
        for (u32 n = 0; n < N; ++n)
#pragma unroll
            for (u32 half = 0; half < 2; ++half) {
                const Vector<float, 2> pair{{acc.values[m][n][2 * half], acc.values[m][n][2 * half + 1]}};
                *reinterpret_cast<Vector<float, 2>*>(to + half * 8 * Tile::PITCH + 8 * n) = pair;
            }
        warp_barrier();
#pragma unroll
        for (u32 i = lane(); i < 16 * CHUNKS; i += WARP) {
            const u32 r = i / CHUNKS, c = i % CHUNKS * 8;
            auto values = *reinterpret_cast<const Vector<float, 8>*>(slab + r * Tile::PITCH + c);
            store_accumulators<T>(epilogue, row + 16 * m + r, column + c, values);
        }
        warp_barrier();
    }
}

// Computes this block's tile of a batch.
template <class T, class Tile, bool ALIGNED, class Problem> DEVICE void gemm(const Problem& problem, u32 batch) {
    auto& shared = shared_memory<Shared<T, Tile>>();
    const Gemm gemm = problem.template gemm<Tile>(batch);
    u32 row, column;
    find_tile<Tile>(block_x(), gemm, row, column);
    Loader<T, Tile, typename Problem::A> loader;
    loader.a = problem.a(batch);
    start(loader, gemm, row, column);
    Accumulators<T, Tile> acc;
    clear(acc);

    const u32 k_tiles = gemm.taps * divide_up(gemm.inputs, BLOCK_K<T>);
    constexpr u32 AHEAD = Tile::STAGES - 1;
    u32 loaded = 0, stage = 0, next = AHEAD;
#pragma unroll 1
    for (; loaded < AHEAD; ++loaded) {
        if (loaded < k_tiles) load<ALIGNED>(loader, shared.stages[loaded].a, shared.stages[loaded].b);
        copy_async_commit();
    }
#pragma unroll 1
    for (u32 k_tile = 0; k_tile < k_tiles; ++k_tile, ++loaded) {
        copy_async_wait<AHEAD - 1>();
        // After the barrier all threads' copies have landed, and all have read the stage before this one.
        block_barrier();
        if (loaded < k_tiles) load<ALIGNED>(loader, shared.stages[next].a, shared.stages[next].b);
        copy_async_commit();
        mma(acc, shared.stages[stage].a, shared.stages[stage].b);
        stage = stage + 1 == Tile::STAGES ? 0 : stage + 1;
        next = next + 1 == Tile::STAGES ? 0 : next + 1;
    }
    copy_async_wait<0>();
    store_tile(acc, shared, problem.epilogue(batch), row, column);
}

}
