// SPDX-License-Identifier: MPL-2.0
//
// Attention of a tile of queries of one head to a list of tiles of keys: FlashAttention-2 (Dao, 2023), with an online
// softmax (Milakov, Gimelshein: "Online normalizer calculation for softmax", 2018). Shared memory holds one tile of
// keys and one of values: the values arrive during q * k^T, the next keys during p * v.

#include "attention.cuh"

namespace {

constexpr u32 THREADS = 128;

// Rows of a head in a plain matrix [row][dim]; rows beyond `count` are zeros.
template <class T> struct Rows {
    const T* first;
    u32 count, dim;

    METHOD const T* vec16(u32 row, u32 p) const { return first + u64(row) * dim + p * PER_16_BYTES<T>; }
    METHOD u32 below(u32 rows) const { return rows * dim; }
};

// Rows of a head in the layout of qkv_layout.cuh, from a row on that is a multiple of 8.
template <class T> struct WindowRows {
    const T* first;
    u32 count;
    TiledQkv<T> layout;

    METHOD const T* vec16(u32 row, u32 p) const { return first + layout.vec16(row, p); }
    METHOD u32 below(u32 rows) const { return layout.below(rows); }
};

// The main loop's steps on one tile, for 16-bit types: a warp has 32 queries, two MMAs high, so that it uses each
// fragment of keys and values twice. With 32 keys a block has 48 KiB of shared memory, and two blocks fit on an SM of a
// GeForce card, which has 100 KiB; FlashAttention-2 has these tiles there as well (flash_fwd_launch_template.h, heads
// of 128).
template <class T> struct Tile {
    static constexpr u32 QUERIES = 128, KEYS = 32;
    static constexpr u32 VECS = HEAD / 8;

    // Swizzled: vector p of row r lies at p ^ r % 8, so that eight rows of a fragment lie in different banks.
    struct Shared {
        T q[QUERIES * HEAD], k[KEYS * HEAD], v[KEYS * HEAD];
    };

    Shared& shared;
    float out[2][VECS][4] = {};
    float score[2][KEYS / 8][4];
    u32 p[2][KEYS / 16][4];
    float row_max[2][2], row_sum[2][2] = {};

    METHOD explicit Tile(Shared& shared) : shared(shared) {
        for (auto& half : row_max)
            for (float& m : half) m = -infinity();
    }

    static METHOD T* vec16(T* tile, u32 row, u32 vec) { return tile + row * HEAD + (vec ^ row % 8) * 8; }

    // The address that this lane passes to ldmatrix for a 16x16 fragment: rows from `row` on, vectors p and p + 1, p
    // even. Written so that all but four addresses are constants apart.
    static METHOD const T* fragment(const T* tile, u32 row, u32 p) {
        const u32 l = lane();
        return tile + (row + l % 16) * HEAD + p / 8 * 64 + (p % 8 ^ l / 16 ^ l % 8) * 8;
    }

    template <class From> static METHOD void copy(T* tile, u32 rows, const From& from) {
        const u32 first = thread() / VECS, column = thread() % VECS;
        constexpr u32 STEP = THREADS / VECS;
        const T* x = from.vec16(first, column);
#pragma unroll 2
        for (u32 row = 0; row < rows; row += STEP, x += from.below(STEP)) {
            const bool valid = first + row < from.count;
            copy_async(vec16(tile, first + row, column), valid ? x : from.first, valid);
        }
    }
    template <class From> METHOD void copy_queries(const From& from) { copy(shared.q, QUERIES, from); }
    template <class From> METHOD void copy_keys(const From& from) { copy(shared.k, KEYS, from); }
    template <class From> METHOD void copy_values(const From& from) { copy(shared.v, KEYS, from); }

    METHOD void mma_qk(u32 keys) {
#pragma unroll
        for (auto& half : score)
            for (auto& tile : half)
                for (float& s : tile) s = 0;
#pragma unroll 4
        for (u32 p = 0; p < VECS; p += 2) {
            u32 q[2][4];
#pragma unroll
            for (u32 m = 0; m < 2; ++m) load_matrix(q[m], fragment(shared.q, warp() * 32 + m * 16, p));
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; n += 2) {
                u32 k[4];
                load_matrix(k, fragment(shared.k, n * 8, p));
#pragma unroll
                for (u32 m = 0; m < 2; ++m) {
                    mma_m16n8k16<T>(score[m][n], q[m], k[0], k[2]);
                    mma_m16n8k16<T>(score[m][n + 1], q[m], k[1], k[3]);
                }
            }
        }
        if (keys < KEYS) {
#pragma unroll
            for (u32 n = 0; n < KEYS / 8; ++n)
                for (u32 i = 0; i < 4; ++i)
                    if (n * 8 + lane() % 4 * 2 + i % 2 >= keys) score[0][n][i] = score[1][n][i] = -infinity();
        }
    }

    // Turns scores into probabilities relative to the largest score so far, and rescales the accumulators to that too.
    METHOD void softmax_rescale() {
        float rescale[2][2];
        bool changed = false;
#pragma unroll
        for (u32 m = 0; m < 2; ++m) {
#pragma unroll
            for (u32 r = 0; r < 2; ++r) {
                float tile_max = -infinity();
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; ++n)
                    tile_max = fmaxf(tile_max, fmaxf(score[m][n][2 * r], score[m][n][2 * r + 1]));
                const float now = fmaxf(row_max[m][r], allreduce_max(tile_max, 4));
                rescale[m][r] = exp2_fast((row_max[m][r] - now) * SOFTMAX_SCALE_LOG2);
                changed |= now != row_max[m][r];
                row_max[m][r] = now;
                const float shift = now * SOFTMAX_SCALE_LOG2;
                float tile_sum = 0;
#pragma unroll
                for (u32 n = 0; n < KEYS / 8; ++n)
                    for (u32 i = 2 * r; i < 2 * r + 2; ++i)
                        tile_sum += score[m][n][i] = exp2_fast(score[m][n][i] * SOFTMAX_SCALE_LOG2 - shift);
                row_sum[m][r] = row_sum[m][r] * rescale[m][r] + tile_sum;
            }
        }
        // The layout of the accumulators is that of a fragment of A, see "Matrix Fragments for mma.m16n8k16" in the PTX
        // manual.
#pragma unroll
        for (u32 m = 0; m < 2; ++m)
            for (u32 n = 0; n < KEYS / 16; ++n)
                for (u32 i = 0; i < 4; ++i) {
                    const float* pair = &score[m][2 * n + i / 2][i % 2 * 2];
                    p[m][n][i] = pack<T>(pair[0], pair[1]);
                }
        if (ballot(changed) == 0) return;
#pragma unroll
        for (u32 m = 0; m < 2; ++m)
            for (u32 c = 0; c < VECS; ++c)
                for (u32 i = 0; i < 4; ++i) out[m][c][i] *= rescale[m][i / 2];
    }

    METHOD void mma_pv() {
#pragma unroll
        for (u32 n = 0; n < KEYS / 16; ++n) {
#pragma unroll
            for (u32 c = 0; c < VECS; c += 2) {
                u32 v[4];
                load_matrix_transposed(v, fragment(shared.v, n * 16, c));
#pragma unroll
                for (u32 m = 0; m < 2; ++m) {
                    mma_m16n8k16<T>(out[m][c], p[m][n], v[0], v[1]);
                    mma_m16n8k16<T>(out[m][c + 1], p[m][n], v[2], v[3]);
                }
            }
        }
    }

    // Writes out / row_sum. Goes through the shared memory of the warp's own queries, so that it stores whole vectors.
    METHOD void write(T* to, u32 rows, u32 dim) {
        const u32 l = lane(), first = warp() * 32;
#pragma unroll
        for (u32 m = 0; m < 2; ++m)
            for (u32 r = 0; r < 2; ++r) {
                const float factor = 1.0f / allreduce_sum(row_sum[m][r], 4);
                const u32 row = first + m * 16 + r * 8 + l / 4;
#pragma unroll
                for (u32 c = 0; c < VECS; ++c)
                    *reinterpret_cast<u32*>(vec16(shared.q, row, c) + l % 4 * 2) =
                        pack<T>(out[m][c][2 * r] * factor, out[m][c][2 * r + 1] * factor);
            }
        warp_barrier();
#pragma unroll
        for (u32 row = l / VECS; row < 32; row += WARP / VECS)
            if (first + row < rows)
                *reinterpret_cast<Vector<T, 8>*>(to + u64(first + row) * dim + l % VECS * 8) =
                    *reinterpret_cast<Vector<T, 8>*>(vec16(shared.q, first + row, l % VECS));
    }
};

// The same steps in f32, without tensor cores: 8 threads share 4 queries; a thread has 4 keys of q * k^T, then 16
// channels of p * v.
template <> struct Tile<float> {
    static constexpr u32 QUERIES = 64, KEYS = 32;
    static constexpr u32 SHARE = 8;
    // Rows are padded by four values to start in different banks.
    static constexpr u32 PITCH = HEAD + 4, P_PITCH = KEYS + 4;
    using Four = Vector<float, 4>;

    struct Shared {
        float q[QUERIES * PITCH], k[KEYS * PITCH], v[KEYS * PITCH], p[QUERIES * P_PITCH];
    };

    Shared& shared;
    float out[4][16] = {};
    float score[4][4];
    float row_max[4], row_sum[4] = {};

    METHOD explicit Tile(Shared& shared) : shared(shared) {
        for (float& m : row_max) m = -infinity();
    }

    static METHOD u32 first_query() { return thread() / SHARE * 4; }
    static METHOD u32 part() { return thread() % SHARE; }
    static METHOD const Four& four(const float* x) { return *reinterpret_cast<const Four*>(x); }

    template <class From> static METHOD void copy(float* tile, u32 rows, const From& from) {
        const u32 p = thread() % 32;
        for (u32 row = thread() / 32; row < rows; row += THREADS / 32) {
            const bool valid = row < from.count;
            copy_async(tile + row * PITCH + p * 4, valid ? from.vec16(row, p) : from.first, valid);
        }
    }
    template <class From> METHOD void copy_queries(const From& from) { copy(shared.q, QUERIES, from); }
    template <class From> METHOD void copy_keys(const From& from) { copy(shared.k, KEYS, from); }
    template <class From> METHOD void copy_values(const From& from) { copy(shared.v, KEYS, from); }

    // Thread t of the eight that share queries has keys t, t + 8, ...: neighbours read neighbouring rows.
    METHOD void mma_qk(u32 keys) {
#pragma unroll
        for (auto& row : score)
            for (float& s : row) s = 0;
        for (u32 c = 0; c < HEAD; c += 4) {
            Four q[4], k[4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                q[i] = four(shared.q + (first_query() + i) * PITCH + c);
                k[i] = four(shared.k + (part() + i * SHARE) * PITCH + c);
            }
#pragma unroll
            for (u32 i = 0; i < 4; ++i)
                for (u32 j = 0; j < 4; ++j)
                    for (u32 x = 0; x < 4; ++x) score[i][j] += q[i].values[x] * k[j].values[x];
        }
        if (keys < KEYS) {
#pragma unroll
            for (u32 j = 0; j < 4; ++j)
                if (part() + j * SHARE >= keys)
                    for (u32 i = 0; i < 4; ++i) score[i][j] = -infinity();
        }
    }

    METHOD void softmax_rescale() {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            float tile_max = fmaxf(fmaxf(score[i][0], score[i][1]), fmaxf(score[i][2], score[i][3]));
            const float now = fmaxf(row_max[i], allreduce_max(tile_max, SHARE));
            const float rescale = exp2f((row_max[i] - now) * SOFTMAX_SCALE_LOG2);
            row_max[i] = now;
            row_sum[i] *= rescale;
#pragma unroll
            for (u32 j = 0; j < 4; ++j) {
                const float probability = exp2f((score[i][j] - now) * SOFTMAX_SCALE_LOG2);
                row_sum[i] += probability;
                shared.p[(first_query() + i) * P_PITCH + part() + j * SHARE] = probability;
            }
#pragma unroll
            for (float& o : out[i]) o *= rescale;
        }
    }

    // Thread t has channels 4 t to 4 t + 3 of each 32.
    METHOD void mma_pv() {
        for (u32 key = 0; key < KEYS; key += 4) {
            Four p[4];
#pragma unroll
            for (u32 i = 0; i < 4; ++i) p[i] = four(shared.p + (first_query() + i) * P_PITCH + key);
#pragma unroll
            for (u32 x = 0; x < 4; ++x)
                for (u32 c = 0; c < 4; ++c) {
                    const Four v = four(shared.v + (key + x) * PITCH + c * 32 + part() * 4);
                    for (u32 i = 0; i < 4; ++i)
                        for (u32 y = 0; y < 4; ++y) out[i][4 * c + y] += p[i].values[x] * v.values[y];
                }
        }
    }

    METHOD void write(float* to, u32 rows, u32 dim) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const float all = allreduce_sum(row_sum[i], SHARE);
            if (first_query() + i >= rows) continue;
#pragma unroll
            for (u32 c = 0; c < 4; ++c) {
                Four v;
                for (u32 y = 0; y < 4; ++y) v.values[y] = out[i][4 * c + y] / all;
                *reinterpret_cast<Four*>(to + u64(first_query() + i) * dim + c * 32 + part() * 4) = v;
            }
        }
    }
};

template <class T> using AttentionShared = typename Tile<T>::Shared;

// The main loop: attention of queries to `tiles` tiles of keys; without any, the result is 0. `keys.window(i)` is the
// window of tile i, read one tile ahead because it comes from memory; `keys.k(i, window)` and `keys.v(i, window)` are
// its rows.
template <class T, class Queries, class Keys>
DEVICE void compute_attention(const Queries& q, T* out, u32 dim, u32 tiles, const Keys& keys) {
    using Work = Tile<T>;
    if (tiles == 0) {
        write_zeros(out, min(q.count, Work::QUERIES), dim, THREADS);
        return;
    }
    Work work(shared_memory<AttentionShared<T>>());
    u32 window = keys.window(0);
    work.copy_queries(q);
    work.copy_keys(keys.k(0, window));
    copy_async_commit();
    for (u32 tile = 0; tile < tiles; ++tile) {
        copy_async_wait<0>();
        block_barrier();  // The keys have landed, and all threads have read the values of the tile before.
        const auto v = keys.v(tile, window);
        work.copy_values(v);
        copy_async_commit();
        const bool more = tile + 1 < tiles;
        if (more) window = keys.window(tile + 1);
        work.mma_qk(v.count);
        work.softmax_rescale();
        copy_async_wait<0>();
        block_barrier();  // The values have landed, and all threads have read the keys.
        if (more) work.copy_keys(keys.k(tile + 1, window));
        copy_async_commit();
        work.mma_pv();
    }
    work.write(out, q.count, dim);
}

// The keys of the windows that a row of the mask lists.
template <class T> struct ListedKeys {
    static constexpr u32 PER_WINDOW = WINDOW / Tile<T>::KEYS;
    const SparseArgs& args;
    const u32* list;
    u32 head;

    METHOD u32 window(u32 tile) const { return list[tile / PER_WINDOW]; }
    METHOD WindowRows<T> rows(const void* const (&groups)[MAX_GROUPS], u32 tile, u32 window) const {
        const TiledQkv<T> layout{args.dim};
        const u32 first = layout.below(tile % PER_WINDOW * Tile<T>::KEYS);
        return {args.tile<T>(groups, window, head) + first, Tile<T>::KEYS, layout};
    }
    METHOD WindowRows<T> k(u32 tile, u32 window) const { return rows(args.k, tile, window); }
    METHOD WindowRows<T> v(u32 tile, u32 window) const { return rows(args.v, tile, window); }
};

// A block takes a tile of queries (block_x) of a head (block_y).
template <class T> DEVICE void sparse_attention(const SparseArgs& args) {
    constexpr u32 QUERIES = Tile<T>::QUERIES;
    constexpr u32 PER_WINDOW = WINDOW / QUERIES;
    const u32 head = block_y(), query_window = args.order[head * args.query_windows + block_x() / PER_WINDOW];
    const u32 first = block_x() % PER_WINDOW * QUERIES;
    const TiledQkv<T> layout{args.dim};
    const T* q = static_cast<const T*>(args.q) + layout.tile(query_window, head) + layout.below(first);
    T* out = static_cast<T*>(args.out) + (u64(query_window) * WINDOW + first) * args.dim + head * HEAD;
    const u64 row = u64(head) * args.query_windows + query_window;
    const ListedKeys<T> keys{args, args.lists + row * args.pitch, head};
    compute_attention<T>(WindowRows<T>{q, QUERIES, layout}, out, args.dim, args.counts[row] * keys.PER_WINDOW, keys);
}

struct CrossArgs {
    const void* q;
    const void* k;
    const void* v;
    void* out;
    u32 dim, queries, keys;
};

// All keys of a plain matrix, for cross attention.
template <class T> struct AllKeys {
    const CrossArgs& args;
    u32 head;

    METHOD u32 window(u32) const { return 0; }
    METHOD Rows<T> rows(const void* all, u32 tile) const {
        const u32 first = tile * Tile<T>::KEYS;
        const u32 count = min(args.keys - first, Tile<T>::KEYS);
        return {static_cast<const T*>(all) + u64(first) * args.dim + head * HEAD, count, args.dim};
    }
    METHOD Rows<T> k(u32 tile, u32) const { return rows(args.k, tile); }
    METHOD Rows<T> v(u32 tile, u32) const { return rows(args.v, tile); }
};

template <class T> DEVICE void cross_attention(const CrossArgs& args) {
    const u32 head = block_y(), query = block_x() * Tile<T>::QUERIES;
    const u64 offset = u64(query) * args.dim + head * HEAD;
    compute_attention<T>(Rows<T>{static_cast<const T*>(args.q) + offset, args.queries - query, args.dim},
                         static_cast<T*>(args.out) + offset, args.dim, divide_up(args.keys, Tile<T>::KEYS),
                         AllKeys<T>{args, head});
}

}

KERNELS(sparse_attention, THREADS, AttentionShared, SparseArgs)
KERNELS(cross_attention, THREADS, AttentionShared, CrossArgs)
