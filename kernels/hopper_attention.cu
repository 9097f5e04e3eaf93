// SPDX-License-Identifier: MPL-2.0
//
// Block-sparse attention on Hopper: FlashAttention-3 (Shah et al., 2024) over lists of key windows. The grid is
// persistent: a block works on one query window of a head after the other, until none is left. Warp specialisation: one
// producer thread fetches work tiles, another loads queries, keys and values, a tile of qkv_layout.cuh with each bulk
// copy, and two consumer warpgroups compute, 64 queries each. Two techniques overlap their MMAs with their softmax:
//
//   ping-pong scheduling      the warpgroups take turns to issue MMAs, by named barriers (warp_scheduler_barrier_sync,
//                             _arrive): one warpgroup's MMAs run during the other's softmax
//   intra-warpgroup overlap   within a warpgroup, q * k^T of a tile and p * v of the tile before are issued together,
//                             and the softmax of the former runs while the latter is in flight (mma)

#include "attention.cuh"
#include "hopper.cuh"

namespace {

constexpr u32 CONSUMERS = 2, THREADS = (CONSUMERS + 1) * WARPGROUP;
constexpr u32 QUERIES = WINDOW / CONSUMERS;
// Accumulators of a thread for a warpgroup's 64 x 128.
constexpr u32 ACC = 64;
constexpr u32 TILE = TiledQkv<bf16>::TILE, TILE_BYTES = 2 * TILE, HALF_BYTES = 2 * TiledQkv<bf16>::HALF;
// Stages of queries, and of keys and values: as many as fit.
constexpr u32 QUERY_TILES = 2, TILES = 5;

// Accumulators are rescaled where the maximum has grown by more than this power of 2 (as in FlashAttention-4), so that
// probabilities stay below it.
constexpr float RESCALE_THRESHOLD = 8;

// Registers of a thread (setmaxnreg). A quarter of an SM has 512 for each lane, here for three warps: 2 * 232 + 40.
constexpr u32 CONSUMER_REGISTERS = 232, PRODUCER_REGISTERS = 40;

// Named barriers of each warpgroup: one on which it awaits its turn to issue MMAs, and one for itself.
constexpr u32 WARP_SCHEDULER_BARRIER = 1, WARPGROUP_BARRIER = WARP_SCHEDULER_BARRIER + CONSUMERS;

struct HopperArgs {
    SparseArgs sparse;
    // The number of query windows of all heads that have been fetched; 0 before and after a launch.
    u32* work_counter;
    u32 windows, blocks;
};

// A window of queries of a head and how many key windows are on its list; `window` is `NONE` if there is nothing left.
struct WorkTile {
    u32 window, head, count;
};
constexpr u32 NONE = ~0u;

// Barriers of a ring of stages. `full[i]`: stage i has been written. `empty[i]`: all consumers have read it.
template <u32 STAGES> struct Pipeline {
    Barrier full[STAGES], empty[STAGES];

    METHOD void init(u32 readers) {
        for (u32 i = 0; i < STAGES; ++i) {
            barrier_init(full[i], 1);
            barrier_init(empty[i], readers);
        }
    }
};

template <class T> struct AttentionShared {
    T q[QUERY_TILES][TILE];
    // Keys and values in the order of their use: k of tile 0, k of tile 1, v of tile 0, k of tile 2, v of tile 1, ...
    T tiles[TILES][TILE];
    WorkTile work;
    Pipeline<QUERY_TILES> q_pipeline;
    Pipeline<TILES> kv_pipeline;
    Pipeline<1> work_pipeline;
};

// The descriptor of the same matrix, `bytes` further on.
DEVICE u64 advance_descriptor(u64 matrix, u32 bytes) { return matrix + (bytes >> 4); }

// The tile scheduler, one thread: fetches query windows, those of a head with the longest lists first, each when the
// producer has come to the last keys of the one before.
template <class T> DEVICE void fetch_work(AttentionShared<T>& shared, const HopperArgs& args) {
    for (PipelineState<1> state;; state.advance()) {
        barrier_wait(shared.work_pipeline.empty[0], state.phase ^ 1);
        // Each block's last request fails, so the counter sees `windows + blocks` increments and wraps to 0 for the
        // next launch.
        const u32 index = atomic_count(args.work_counter, args.windows + args.blocks - 1);
        WorkTile work{NONE, index / args.sparse.query_windows, 0};
        if (index < args.windows) {
            work.window = args.sparse.order[index];
            work.count = args.sparse.counts[work.head * args.sparse.query_windows + work.window];
        }
        shared.work = work;
        barrier_arrive(shared.work_pipeline.full[0]);
        if (work.window == NONE) return;
    }
}

// The producer, one thread: loads queries, keys and values.
template <class T> DEVICE void load(AttentionShared<T>& shared, const SparseArgs& args) {
    PipelineState<QUERY_TILES> query;
    PipelineState<TILES> tile;
    const auto load_tile = [](T* to, auto& pipeline, auto& state, const T* from) {
        Barrier& full = pipeline.full[state.index];
        barrier_wait(pipeline.empty[state.index], state.phase ^ 1);
        barrier_arrive_expect(full, TILE_BYTES);
        copy_bulk(to, from, TILE_BYTES, full);
        state.advance();
    };
    const auto load_kv = [&](const void* const (&groups)[MAX_GROUPS], u32 window, u32 head) {
        load_tile(shared.tiles[tile.index], shared.kv_pipeline, tile, args.tile<T>(groups, window, head));
    };
    for (PipelineState<1> state;; state.advance()) {
        barrier_wait(shared.work_pipeline.full[0], state.phase);
        const WorkTile work = shared.work;
        if (work.window == NONE) return;
        if (work.count == 0) {
            barrier_arrive(shared.work_pipeline.empty[0]);
            continue;
        }
        const u32* list = args.lists + (u64(work.head) * args.query_windows + work.window) * args.pitch;
        u32 window = list[0], last = 0;
        load_tile(shared.q[query.index], shared.q_pipeline, query,
                  static_cast<const T*>(args.q) + TiledQkv<T>{args.dim}.tile(work.window, work.head));
        for (u32 i = 0; i <= work.count; ++i) {
            if (i + 1 == work.count) barrier_arrive(shared.work_pipeline.empty[0]);
            // The next list entry is read before the waits below, which usually take longer than the read.
            const u32 next = i + 1 < work.count ? list[i + 1] : 0;
            if (i < work.count) load_kv(args.k, window, work.head);
            if (i > 0) load_kv(args.v, last, work.head);
            last = window;
            window = next;
        }
    }
}

// The consumer, a warpgroup. A thread holds accumulators of two rows: acc[i] belongs to row i / 2 % 2 of them.
template <class T> struct Attention {
    AttentionShared<T>& shared;
    float score[ACC], out[ACC];
    // Probabilities before their division by row_sum, as fragments of A for 16 keys each.
    u32 p[WINDOW / 16][4];
    // The reference of the exponentials, at most RESCALE_THRESHOLD below the maximum; the sum of the probabilities.
    float row_max[2], row_sum[2];
    PipelineState<QUERY_TILES> query;
    PipelineState<TILES> tile;
    // The first turn is the first warpgroup's: nobody arrives for it.
    bool goes_first = warpgroup() == 0;

    METHOD explicit Attention(AttentionShared<T>& shared) : shared(shared) {}

    METHOD void warp_scheduler_barrier_sync() {
        if (!goes_first) named_barrier(WARP_SCHEDULER_BARRIER + warpgroup(), CONSUMERS * WARPGROUP);
        goes_first = false;
    }
    METHOD void warp_scheduler_barrier_arrive() {
        named_barrier_arrive(WARP_SCHEDULER_BARRIER + 1 - warpgroup(), CONSUMERS * WARPGROUP);
    }

    // Waits for the next tile of keys or values; returns its stage.
    METHOD u32 consumer_wait() {
        const u32 index = tile.index;
        barrier_wait(shared.kv_pipeline.full[index], tile.phase);
        tile.advance();
        return index;
    }

    // Releases a stage. Comes after the wait for the MMAs that read it.
    static METHOD void consumer_release(Barrier& empty) {
        if (lane() == 0) barrier_arrive(empty);
    }

    // Issue the MMAs of scores = q * k^T and out += p * v; return the stage that they read.
    METHOD u32 mma_qk() {
        const u32 index = consumer_wait();
        const u64 q = k_major(shared.q[query.index] + warpgroup() * QUERIES * TILE_COLUMNS);
        const u64 k = k_major(shared.tiles[index]);
        warpgroup_fence(score);
#pragma unroll
        for (u32 c = 0; c < HEAD; c += 16) {
            const u32 offset = c / TILE_COLUMNS * HALF_BYTES + c % TILE_COLUMNS * 2;
            wgmma<T>(score, advance_descriptor(q, offset), advance_descriptor(k, offset), c > 0);
        }
        warpgroup_commit();
        return index;
    }
    METHOD u32 mma_pv(bool keep) {
        const u32 index = consumer_wait();
        const u64 v = mn_major(shared.tiles[index], HALF_BYTES);
        warpgroup_fence(out, p);
#pragma unroll
        for (u32 n = 0; n < WINDOW / 16; ++n)
            wgmma<T, true>(out, p[n], advance_descriptor(v, n * 16 * TILE_COLUMNS * 2), keep || n > 0);
        warpgroup_commit();
        return index;
    }

    // Finds the largest score of each row of the tile.
    METHOD void reduce_max(float (&tile_max)[2]) const {
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            tile_max[r] = -infinity();
#pragma unroll
            for (u32 i = 2 * r; i < ACC; i += 4) tile_max[r] = fmaxf(tile_max[r], fmaxf(score[i], score[i + 1]));
            tile_max[r] = allreduce_max(tile_max[r], 4);
        }
    }

    // Turns scores into probabilities, still in f32 and before their division by row_sum.
    METHOD void scale_apply_exp2() {
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            const float shift = row_max[r] * SOFTMAX_SCALE_LOG2;
#pragma unroll
            for (u32 i = 2 * r; i < ACC; i += 4)
                for (u32 x = i; x < i + 2; ++x)
                    row_sum[r] += score[x] = exp2_fast(score[x] * SOFTMAX_SCALE_LOG2 - shift);
        }
    }

    // Rounds probabilities to T for p * v: the layout of the accumulators is that of A in registers.
    METHOD void pack_probabilities() {
#pragma unroll
        for (u32 n = 0; n < WINDOW / 16; ++n)
            for (u32 i = 0; i < 4; ++i) p[n][i] = pack<T>(score[8 * n + 2 * i], score[8 * n + 2 * i + 1]);
    }

    // The main loop: attention to `tiles` tiles, the accumulators of which end up in `out` and `row_sum`.
    METHOD void mma(u32 tiles) {
        barrier_wait(shared.q_pipeline.full[query.index], query.phase);
        u32 keys = mma_qk();
        warpgroup_wait<0>(score);
        consumer_release(shared.kv_pipeline.empty[keys]);
        reduce_max(row_max);
        row_sum[0] = row_sum[1] = 0;
        scale_apply_exp2();
        pack_probabilities();
        for (u32 i = 1; i < tiles; ++i) {
            warp_scheduler_barrier_sync();
            keys = mma_qk();
            const u32 values = mma_pv(i > 1);
            warp_scheduler_barrier_arrive();
            warpgroup_wait<1>(score);
            consumer_release(shared.kv_pipeline.empty[keys]);
            // Any reference in the place of the maximum gives the same quotients, as long as probabilities keep within
            // the range of their type. So accumulators are rescaled only where the maximum has grown far.
            float tile_max[2], rescale[2];
            reduce_max(tile_max);
            bool changed = false;
#pragma unroll
            for (u32 r = 0; r < 2; ++r) {
                const bool far = (tile_max[r] - row_max[r]) * SOFTMAX_SCALE_LOG2 > RESCALE_THRESHOLD;
                rescale[r] = far ? exp2_fast((row_max[r] - tile_max[r]) * SOFTMAX_SCALE_LOG2) : 1;
                row_max[r] = far ? tile_max[r] : row_max[r];
                row_sum[r] *= rescale[r];
                changed |= far;
            }
            scale_apply_exp2();
            warpgroup_wait<0>(out, p);
            consumer_release(shared.kv_pipeline.empty[values]);
            if (ballot(changed) != 0) {
#pragma unroll
                for (u32 x = 0; x < ACC; ++x) out[x] *= rescale[x / 2 % 2];
            }
            pack_probabilities();
        }
        const u32 values = mma_pv(tiles > 1);
        warpgroup_wait<0>(out, p);
        consumer_release(shared.kv_pipeline.empty[values]);
    }

    // Writes out / row_sum. Goes through the shared memory of the warpgroup's queries, which is free by then, so that
    // it stores whole vectors.
    METHOD void write(T* to, u32 dim) {
        constexpr u32 VECS = HEAD / 8;
        const u32 l = lane(), first = warp() * 16;
        T* own = shared.q[query.index];
        named_barrier(WARPGROUP_BARRIER + warpgroup(), WARPGROUP);  // All MMAs of the warpgroup have read its queries.
#pragma unroll
        for (u32 r = 0; r < 2; ++r) {
            const float factor = 1.0f / allreduce_sum(row_sum[r], 4);
#pragma unroll
            for (u32 i = 2 * r; i < ACC; i += 4)
                *reinterpret_cast<u32*>(own + TiledQkv<T>::vec16(first + l / 4 + 8 * r, i / 4) + l % 4 * 2) =
                    pack<T>(out[i] * factor, out[i + 1] * factor);
        }
        warp_barrier();
#pragma unroll
        for (u32 row = first + l / VECS; row < first + 16; row += WARP / VECS)
            *reinterpret_cast<Vector<T, 8>*>(to + u64(row) * dim + l % VECS * 8) =
                *reinterpret_cast<const Vector<T, 8>*>(own + TiledQkv<T>::vec16(row, l % VECS));
        async_proxy_fence();
        warp_barrier();
        consumer_release(shared.q_pipeline.empty[query.index]);
        query.advance();
    }
};

template <class T> DEVICE void compute(AttentionShared<T>& shared, const SparseArgs& args) {
    Attention<T> attention(shared);
    for (PipelineState<1> state;; state.advance()) {
        barrier_wait(shared.work_pipeline.full[0], state.phase);
        // compute-sanitizer's racecheck reports a race between this load and the stores of the next item in
        // fetch_work(). There is none: all lanes load before warp_barrier(), lane 0 arrives at `empty` after it
        // (mbarrier.arrive releases), and fetch_work() stores only after its wait for that phase of `empty`
        // (mbarrier.try_wait acquires).
        // In sm_90a code the load is an LDS.128, the arrival a SYNCS.ARRIVE of lane 0, and warp_barrier() between them
        // a NOP, since the warp is converged: a tool that goes by instructions sees no order for the other 31 lanes.
        const WorkTile work = shared.work;
        warp_barrier();
        attention.consumer_release(shared.work_pipeline.empty[0]);
        if (work.window == NONE) break;
        T* out = static_cast<T*>(args.out) + u64(work.window) * WINDOW * args.dim + work.head * HEAD;
        if (work.count == 0) {
            write_zeros(out, WINDOW, args.dim, CONSUMERS * WARPGROUP);
        } else {
            attention.mma(work.count);
            attention.write(out, args.dim);
        }
    }
    // Consumes the final arrival of the scheduler barrier, so that it is balanced at exit.
    if (warpgroup() == 0) attention.warp_scheduler_barrier_sync();
}

template <class T> DEVICE void hopper_sparse_attention(const HopperArgs& args) {
    auto& shared = shared_memory<AttentionShared<T>>();
    if (thread() == 0) {
        constexpr u32 WARPS = CONSUMERS * WARPGROUP / WARP;
        shared.q_pipeline.init(WARPS);
        shared.kv_pipeline.init(WARPS);
        shared.work_pipeline.init(WARPS + 1);
        barrier_init_fence();
    }
    block_barrier();
    if (warpgroup() < CONSUMERS) {
        registers_increase<CONSUMER_REGISTERS>();
        compute(shared, args.sparse);
    } else {
        registers_decrease<PRODUCER_REGISTERS>();
        const u32 part = thread() - CONSUMERS * WARPGROUP;
        if (part == 0) load(shared, args.sparse);
        if (part == WARP) fetch_work(shared, args);
    }
}

}

KERNELS_HOPPER(hopper_sparse_attention, THREADS, AttentionShared, HopperArgs)
