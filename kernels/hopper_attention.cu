// SPDX-License-Identifier: MPL-2.0
//
// Sparse attention on Hopper: FlashAttention-3 (Shah et al., 2024) over a list of key windows. A block takes a window of
// queries of a head. One warp has keys and values brought, a tile of heads.cuh at a time, into rings of tiles; two
// warpgroups have 64 queries each. Scores of the next tile are multiplied while the softmax of this one is taken, and the
// warpgroups take turns, so that one has products under way while the other has powers of 2.

#include "attention.cuh"
#include "hopper.cuh"

namespace {

constexpr u32 CONSUMERS = 2, THREADS = (CONSUMERS + 1) * WARPGROUP;
constexpr u32 QUERIES = WINDOW / CONSUMERS;
// Tiles of keys, and as many of values: with the queries all that fits.
constexpr u32 STAGES = 3;
// What a thread has of 64 x 128 sums.
constexpr u32 SUMS = 64;
constexpr u32 TILE = WINDOW * HEAD, TILE_BYTES = 2 * TILE, HALF_BYTES = TILE_BYTES / 2;

// Of 512 that three warps of a quarter of a multiprocessor share.
constexpr u32 CONSUMER_REGISTERS = 240, PRODUCER_REGISTERS = 24;

// Named barriers: one on which each warpgroup awaits its turn, and one for itself.
constexpr u32 TURN = 1, OWN = TURN + CONSUMERS;

// Tiles on their way from memory to the warpgroups.
template <class T> struct Ring {
    alignas(PATTERN_BYTES) T tiles[STAGES][TILE];
    // The tile has come; every warp has read it.
    Barrier full[STAGES], empty[STAGES];
};

template <class T> struct AttentionShared {
    T q[TILE];
    Ring<T> k, v;
};

// A place in a ring.
struct Stage {
    u32 index = 0, parity = 0;

    METHOD void next() {
        if (++index < STAGES) return;
        index = 0;
        parity ^= 1;
    }
};

// The same matrix `bytes` further on.
DEVICE u64 moved(u64 matrix, u32 bytes) { return matrix + (bytes >> 4); }

// What one thread does to have keys and values brought, in the order in which they are read: the keys of a tile before
// the values of the one before.
template <class T>
DEVICE void bring(AttentionShared<T>& shared, const SparseArgs& args, const T* q, const u32* list, u32 count, u32 head) {
    const auto bring_tile = [&](Ring<T>& ring, Stage& stage, const void* const (&groups)[MAX_GROUPS], u32 window, u32 more) {
        Barrier& full = ring.full[stage.index];
        barrier_wait(ring.empty[stage.index], stage.parity ^ 1);
        barrier_arrive_expect(full, TILE_BYTES + more);
        copy_bulk(ring.tiles[stage.index], args.tile<T>(groups, window, head), TILE_BYTES, full);
        stage.next();
    };
    Stage keys, values;
    u32 window = list[0], last = 0;
    for (u32 i = 0; i <= count; ++i) {
        // Read early: what is waited for below is seldom there already.
        const u32 next = i + 1 < count ? list[i + 1] : 0;
        if (i < count) bring_tile(shared.k, keys, args.k, window, i == 0 ? TILE_BYTES : 0);
        // The queries come with the first keys.
        if (i == 0) copy_bulk(shared.q, q, TILE_BYTES, shared.k.full[0]);
        if (i > 0) bring_tile(shared.v, values, args.v, last, 0);
        last = window;
        window = next;
    }
}

// A warpgroup's work. Of its sums a thread has those of two rows, row r those with i / 2 % 2 == r.
template <class T> struct Attention {
    AttentionShared<T>& shared;
    float score[SUMS], out[SUMS];
    // Left-hand fragments for 16 keys each.
    u32 weights[WINDOW / 16][4];
    // What scores are relative to, and the sum of the weights.
    float maximum[2], sum[2];
    Stage keys, values;

    METHOD void start_scores() {
        barrier_wait(shared.k.full[keys.index], keys.parity);
        const u64 q = k_major(shared.q + warpgroup() * QUERIES * TILE_COLUMNS), k = k_major(shared.k.tiles[keys.index]);
        warpgroup_fence(score);
#pragma unroll
        for (u32 c = 0; c < HEAD; c += 16) {
            const u32 place = c / TILE_COLUMNS * HALF_BYTES + c % TILE_COLUMNS * 2;
            warpgroup_multiply<T>(score, moved(q, place), moved(k, place), c > 0);
        }
        warpgroup_commit();
    }

    METHOD void start_values(bool keep) {
        barrier_wait(shared.v.full[values.index], values.parity);
        const u64 v = mn_major(shared.v.tiles[values.index], HALF_BYTES);
        warpgroup_fence(out, weights);
#pragma unroll
        for (u32 n = 0; n < WINDOW / 16; ++n)
            warpgroup_multiply<T, true>(out, weights[n], moved(v, n * 16 * TILE_COLUMNS * 2), keep || n > 0);
        warpgroup_commit();
    }

    // To be called after the wait for the products that read the tile.
    static METHOD void release(Ring<T>& ring, Stage& stage) {
        if (lane() == 0) barrier_arrive(ring.empty[stage.index]);
        stage.next();
    }

    // The largest score of each row of the tile.
    METHOD void find_largest(float (&largest)[2]) const {
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            largest[r] = -infinity();
#pragma unroll
            for (u32 i = 2 * r; i < SUMS; i += 4) largest[r] = fmaxf(largest[r], fmaxf(score[i], score[i + 1]));
            largest[r] = row_maximum(largest[r], 4);
        }
    }

    // Turns scores into weights, still in f32.
    METHOD void take_powers() {
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            const float shift = maximum[r] * SCALE;
#pragma unroll
            for (u32 i = 2 * r; i < SUMS; i += 4)
                for (u32 x = i; x < i + 2; ++x) sum[r] += score[x] = exp2_fast(score[x] * SCALE - shift);
        }
    }

    // The layout of the sums is that of a left side in registers.
    METHOD void pack_weights() {
#pragma unroll
        for (u32 n = 0; n < WINDOW / 16; ++n)
            for (u32 i = 0; i < 4; ++i) weights[n][i] = pack<T>(score[8 * n + 2 * i], score[8 * n + 2 * i + 1]);
    }

    METHOD void attend(u32 tiles) {
        start_scores();
        warpgroup_wait<0>(score);
        release(shared.k, keys);
        find_largest(maximum);
        sum[0] = sum[1] = 0;
        take_powers();
        pack_weights();
        for (u32 tile = 1; tile < tiles; ++tile) {
            // Nobody waits before the first turn or passes the last one on.
            if (warpgroup() > 0 || tile > 1) named_barrier(TURN + warpgroup(), CONSUMERS * WARPGROUP);
            start_scores();
            start_values(tile > 1);
            if (warpgroup() == 0 || tile + 1 < tiles)
                named_barrier_arrive(TURN + 1 - warpgroup(), CONSUMERS * WARPGROUP);
            warpgroup_wait<1>(score);
            release(shared.k, keys);
            // Results relative to anything are right, as long as they keep within the range of their types; bringing them
            // to another maximum is worth it only where that is larger by far.
            float largest[2], rescale[2];
            find_largest(largest);
            bool changed = false;
#pragma unroll
            for (u32 r = 0; r < 2; ++r) {
                const bool far = (largest[r] - maximum[r]) * SCALE > 8;
                rescale[r] = far ? exp2_fast((maximum[r] - largest[r]) * SCALE) : 1;
                maximum[r] = far ? largest[r] : maximum[r];
                sum[r] *= rescale[r];
                changed |= far;
            }
            take_powers();
            warpgroup_wait<0>(out, weights);
            release(shared.v, values);
            if (ballot(changed) != 0) {
#pragma unroll
                for (u32 i = 0; i < SUMS; ++i) out[i] *= rescale[i / 2 % 2];
            }
            pack_weights();
        }
        start_values(tiles > 1);
        warpgroup_wait<0>(out, weights);
    }

    // Results go through the place of the warpgroup's queries, so that whole pieces are written.
    METHOD void write(T* to, u32 dim) {
        const Heads<T> heads{dim};
        const u32 l = lane(), first = warp() * 16;
        named_barrier(OWN + warpgroup(), WARPGROUP);  // All its products have read them.
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            const float factor = 1.0f / row_sum(sum[r], 4);
#pragma unroll
            for (u32 i = 2 * r; i < SUMS; i += 4)
                *reinterpret_cast<u32*>(shared.q + heads.piece(first + l / 4 + 8 * r, i / 4) + l % 4 * 2) =
                    pack<T>(out[i] * factor, out[i + 1] * factor);
        }
        warp_barrier();
        constexpr u32 PIECES = HEAD / 8;
#pragma unroll
        for (u32 row = first + l / PIECES; row < first + 16; row += WARP / PIECES)
            *reinterpret_cast<Vector<T, 8>*>(to + u64(row) * dim + l % PIECES * 8) =
                *reinterpret_cast<const Vector<T, 8>*>(shared.q + heads.piece(row, l % PIECES));
    }
};

// A block takes a window of queries (block_x) of a head (block_y).
template <class T> DEVICE void hopper_sparse_attention(const SparseArgs& args) {
    const u32 head = block_y(), window = args.order[head * args.query_windows + block_x()];
    const u64 row = u64(head) * args.query_windows + window;
    const u32 count = args.counts[row];
    T* out = static_cast<T*>(args.out) + u64(window) * WINDOW * args.dim + head * HEAD;
    if (count == 0) {
        write_zeros(out, WINDOW, args.dim, THREADS);
        return;
    }
    auto& shared = shared_memory<AttentionShared<T>>();
    if (thread() == 0) {
        for (Ring<T>* ring : {&shared.k, &shared.v})
            for (u32 i = 0; i < STAGES; ++i) {
                barrier_init(ring->full[i], 1);
                barrier_init(ring->empty[i], CONSUMERS * WARPGROUP / WARP);
            }
        barrier_init_fence();
    }
    block_barrier();
    if (warpgroup() < CONSUMERS) {
        registers_increase<CONSUMER_REGISTERS>();
        Attention<T> attention{shared};
        attention.attend(count);
        attention.write(out, args.dim);
    } else {
        registers_decrease<PRODUCER_REGISTERS>();
        if (thread() == CONSUMERS * WARPGROUP) {
            const T* q = static_cast<const T*>(args.q) + Heads<T>{args.dim}.tile(window, head);
            bring(shared, args, q, args.lists + row * args.pitch, count, head);
        }
    }
}

}

KERNELS_HOPPER(hopper_sparse_attention, THREADS, AttentionShared, SparseArgs)
