// SPDX-License-Identifier: MPL-2.0
//
// The product of product.cuh with Hopper's products of warpgroups. A block has three warpgroups. The first brings what
// the others multiply into a ring of stages, each of 64 values of k: its threads gather the left side, and one of them
// has the weights copied, which are packed on the host (src/backend/cuda/product.rs) as [n / N][segment][channel /
// 64][N][64], swizzled, filled up with zeros: a stage's weights are one run of bytes. The other two compute one half of
// a tile's rows each. Blocks stay: while a tile is stored, the next one's stages fill.
//
// Registers: 168 for each of 384 threads (65536 in all), of which the first warpgroup gives some to the others, whose
// sums take 128.
#pragma once

#include "hopper.cuh"
#include "product.cuh"

namespace {

constexpr u32 CONSUMERS = 2, THREADS = (1 + CONSUMERS) * WARPGROUP;
constexpr u32 PRODUCER_REGISTERS = 104, CONSUMER_REGISTERS = 200;

// Values of k in a stage; the 16-byte pieces of a row.
constexpr u32 STEP = TILE_COLUMNS, PIECES = 8;

// Tiles of M x N. A stage's bytes are 128 (M + N): four of them take 192 KiB of the 227 KiB of a block.
template <u32 M_, u32 N_> struct Tile {
    static constexpr u32 M = M_, N = N_, STAGES = 4;
    // Products of 64 rows that a warpgroup computes.
    static constexpr u32 PARTS = M / (64 * CONSUMERS);
};

using Wide = Tile<128, 256>;
using Tall = Tile<256, 128>;

template <class T, class Tile> struct Stage {
    alignas(PATTERN_BYTES) T left[Tile::M * STEP];
    alignas(PATTERN_BYTES) T right[Tile::N * STEP];
};

// What all rows of a tile get, sum * factor + offset, for each of the warpgroups that store them.
template <class Tile> struct ColumnTerms {
    alignas(16) float offset[Tile::N], factor[Tile::N];
};

template <class T, class Tile> struct Shared {
    Stage<T, Tile> stages[Tile::STAGES];
    // A stage holds what is to be multiplied; it may be written anew.
    Barrier full[Tile::STAGES], empty[Tile::STAGES];
    ColumnTerms<Tile> terms[CONSUMERS];
};

template <class T> using WideShared = Shared<T, Wide>;
template <class T> using TallShared = Shared<T, Tall>;

// The stages in turn.
template <class Tile> struct Turn {
    u32 stage = 0, parity = 0;

    METHOD void next() {
        if (++stage < Tile::STAGES) return;
        stage = 0;
        parity ^= 1;
    }
};

// A tile of all layers, and where it lies.
struct Place {
    u32 layer, row, column;
};

template <class Tile, class Problem> DEVICE Place find_place(const Problem& problem, u32 number) {
    const Product product = problem.template product<Tile>(0);
    const u32 tiles = count_tiles<Tile>(product);
    Place place{number / tiles, 0, 0};
    find_tile<Tile>(number % tiles, product, place.row, place.column);
    return place;
}

// Tells that this warp's copies into a stage have landed.
DEVICE void publish(Barrier& full) {
    async_proxy_fence();
    warp_barrier();
    if (lane() == 0) barrier_arrive(full);
}

// The first warpgroup: fills stages with all tiles of the block. Eight threads copy a row of the left side, and the
// same threads one row of every 16.
template <class T, class Tile, class Problem>
DEVICE void produce(Shared<T, Tile>& shared, const Problem& problem, u32 tiles, u32 blocks) {
    constexpr u32 STRIDE = WARPGROUP / PIECES, ROWS = Tile::M / STRIDE;
    const u32 first = thread() / PIECES, piece = thread() % PIECES;
    Turn<Tile> turn;
    // Of the stage before, whose copies are under way.
    Barrier* filling = nullptr;
#pragma unroll 1
    for (u32 tile = block_x(); tile < tiles; tile += blocks) {
        const Place place = find_place<Tile>(problem, tile);
        const Product product = problem.template product<Tile>(place.layer);
        const T* weights = static_cast<const T*>(product.weights) + u64(place.column) * product.depth;
        auto left = problem.left(place.layer);
        typename Problem::Left::Row rows[ROWS];
#pragma unroll
        for (u32 i = 0; i < ROWS; ++i) rows[i] = left.row(place.row + first + i * STRIDE);
#pragma unroll 1
        for (u32 segment = 0; segment < product.segments; ++segment) {
            const T* sources[ROWS];
            left.enter(segment);
#pragma unroll
            for (u32 i = 0; i < ROWS; ++i) sources[i] = left.channels(rows[i]);
#pragma unroll 1
            for (u32 channel = 8 * piece; channel < product.inputs + 8 * piece; channel += STEP) {
                auto& stage = shared.stages[turn.stage];
                Barrier& full = shared.full[turn.stage];
                barrier_wait(shared.empty[turn.stage], turn.parity ^ 1);
                if (thread() == 0) {
                    barrier_arrive_expect(full, sizeof stage.right);
                    copy_bulk(stage.right, weights, sizeof stage.right, full);
                }
#pragma unroll
                for (u32 i = 0; i < ROWS; ++i) {
                    const bool inside = sources[i] && channel < product.inputs;
                    copy_async(stage.left + swizzled(first + i * STRIDE, piece),
                               inside ? sources[i] + channel : weights, inside);
                }
                copy_async_commit();
                if (filling) {
                    copy_async_wait<1>();
                    publish(*filling);
                }
                filling = &full;
                weights += Tile::N * STEP;
                turn.next();
            }
        }
    }
    copy_async_wait<0>();
    if (filling) publish(*filling);
}

// Columns of a tile whose terms a thread brings there.
template <class Tile, class Result> struct OwnTerms {
    static constexpr u32 COUNT = Tile::N / WARPGROUP;
    Terms<1> terms[COUNT];

    // Long before the sums are there, so that nobody waits for memory.
    METHOD void load(const Result& result, const Place& place) {
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) {
            const u32 column = place.column + thread() % WARPGROUP + i * WARPGROUP;
            terms[i] = result.has(place.row, column) ? result.template terms<1>(column) : Terms<1>{};
        }
    }

    // After everybody has read those of the tile before, and before anybody reads these.
    METHOD void store(ColumnTerms<Tile>& all) const {
        named_barrier(warpgroup(), WARPGROUP);
#pragma unroll
        for (u32 i = 0; i < COUNT; ++i) {
            const u32 column = thread() % WARPGROUP + i * WARPGROUP;
            const float factor = terms[i].factor.values[0];
            all.factor[column] = factor;
            all.offset[column] = terms[i].offset.values[0] * factor;
        }
        named_barrier(warpgroup(), WARPGROUP);
    }
};

// Two neighbouring sums of each of four times eight columns, of which lane q of four that share a row is to get the
// q-th eight: exchanges them. In the end eights[p] are the two that lane p had.
DEVICE void exchange(float (&eights)[4][2]) {
    const u32 own = lane() % 4;
#pragma unroll
    for (u32 bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (u32 e = 0; e < 4; ++e)
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                if (e & bit) continue;
                float &low = eights[e][i], &high = eights[e | bit][i];
                const bool upper = own & bit;
                const float other = shuffle_xor(upper ? low : high, bit);
                (upper ? low : high) = other;
            }
}

// Gives the sums to the result, eight columns at once, and what is added to them is loaded some steps before.
template <class T, class Tile, class Result>
DEVICE void finish(const float (&sums)[Tile::PARTS][Tile::N / 2], const Result& result,
                   const ColumnTerms<Tile>& terms, u32 first_row, u32 first_column) {
    // All rows of 32 columns, then the next: so their terms are in registers for a short while only.
    constexpr u32 HALVES = 2 * Tile::PARTS, STEPS = HALVES * Tile::N / 32, AHEAD = 4;
    const u32 own = 8 * (lane() % 4);
    first_row += warp() % 4 * 16 + lane() / 4;
    // Finding a line may take divisions.
    u64 lines[HALVES];
#pragma unroll
    for (u32 i = 0; i < HALVES; ++i) lines[i] = result.line(first_row + i / 2 * 64 + i % 2 * 8);
    // As they are stored, which takes half of the registers.
    Vector<u32, 4> added[AHEAD];
#pragma unroll
    for (u32 ahead = 0; ahead < STEPS + AHEAD; ++ahead) {
        if (ahead >= AHEAD) {
            const u32 step = ahead - AHEAD, group = step / HALVES, part = step % HALVES / 2, half = step % 2;
            const u32 row = first_row + 64 * part + 8 * half, column = 32 * group + own;
            float eights[4][2];
#pragma unroll
            for (u32 i = 0; i < 8; ++i) eights[i / 2][i % 2] = sums[part][16 * group + i / 2 * 4 + 2 * half + i % 2];
            exchange(eights);
            const auto offset = read<float, 8>(terms.offset + column), factor = read<float, 8>(terms.factor + column);
            Vector<float, 8> y;
#pragma unroll
            for (u32 i = 0; i < 8; ++i)
                y.values[i] = eights[i / 2][i % 2] * factor.values[i] + offset.values[i];
            Vector<float, 8> more;
#pragma unroll
            for (u32 i = 0; i < 8; ++i)
                more.values[i] = to_float(T{u16(added[step % AHEAD].values[i / 2] >> i % 2 * 16)});
            if (result.has(row, first_column + column)) result.put(lines[step % HALVES], first_column + column, y, more);
        }
        if (ahead < STEPS) {
            const u32 row = first_row + ahead % HALVES / 2 * 64 + ahead % 2 * 8;
            const u32 column = first_column + ahead / HALVES * 32 + own;
            added[ahead % AHEAD] = {};
            if (result.added() && result.has(row, column))
                added[ahead % AHEAD] =
                    *reinterpret_cast<const Vector<u32, 4>*>(result.added() + lines[ahead % HALVES] + column);
        }
    }
}

// The other warpgroups: multiply what is in the stages and store the sums.
template <class T, class Tile, class Problem>
DEVICE void consume(Shared<T, Tile>& shared, const Problem& problem, u32 tiles, u32 blocks) {
    const u32 first = (warpgroup() - 1) * Tile::PARTS * 64;
    float sums[Tile::PARTS][Tile::N / 2];
    Turn<Tile> turn;
#pragma unroll 1
    for (u32 tile = block_x(); tile < tiles; tile += blocks) {
        const Place place = find_place<Tile>(problem, tile);
        const Product product = problem.template product<Tile>(place.layer);
        const auto result = problem.result(place.layer);
        OwnTerms<Tile, decltype(problem.result(0))> terms;
        terms.load(result, place);
        const u32 steps = product.segments * divide_up(product.inputs, STEP);
        Barrier* multiplied = nullptr;
#pragma unroll 1
        for (u32 step = 0; step < steps; ++step) {
            const auto& stage = shared.stages[turn.stage];
            barrier_wait(shared.full[turn.stage], turn.parity);
            warpgroup_fence(sums);
#pragma unroll
            for (u32 k = 0; k < STEP; k += 16)
#pragma unroll
                for (u32 part = 0; part < Tile::PARTS; ++part)
                    warpgroup_multiply<T>(sums[part], k_major(stage.left + (first + 64 * part) * STEP, k),
                                          k_major(stage.right, k), (step | k) > 0);
            warpgroup_commit();
            warpgroup_wait<1>();
            if (multiplied && lane() == 0) barrier_arrive(*multiplied);
            multiplied = &shared.empty[turn.stage];
            turn.next();
        }
        terms.store(shared.terms[warpgroup() - 1]);
        warpgroup_wait<0>(sums);
        if (lane() == 0) barrier_arrive(*multiplied);
        finish<T, Tile>(sums, result, shared.terms[warpgroup() - 1], place.row + first, place.column);
    }
}

// Every `blocks`-th tile of all layers.
template <class T, class Tile, class Problem> DEVICE void multiply(const Problem& problem, u32 layers, u32 blocks) {
    auto& shared = shared_memory<Shared<T, Tile>>();
    if (thread() == 0) {
        for (u32 i = 0; i < Tile::STAGES; ++i) {
            // A warp of the first warpgroup each, and the one thread that expects weights; a warp of the others.
            barrier_init(shared.full[i], WARPGROUP / WARP + 1);
            barrier_init(shared.empty[i], CONSUMERS * WARPGROUP / WARP);
        }
        barrier_init_fence();
    }
    block_barrier();
    const u32 tiles = layers * count_tiles<Tile>(problem.template product<Tile>(0));
    if (warpgroup() == 0) {
        registers_decrease<PRODUCER_REGISTERS>();
        produce(shared, problem, tiles, blocks);
    } else {
        registers_increase<CONSUMER_REGISTERS>();
        consume(shared, problem, tiles, blocks);
    }
}

}
