// SPDX-License-Identifier: MPL-2.0
//
// Queries and keys: RMS norm over the whole row, RoPE (rotary position embedding) in each head, means over each window.

#include "qkv_layout.cuh"

namespace {

constexpr u32 THREADS = 128;
constexpr u32 SIDE = 8;
constexpr float EPS = 1e-6f;

// Channel pairs of a head that are rotated by the frame's index; by the row's, and as many by the column's.
constexpr u32 TIME_PAIRS = 22, SPACE_PAIRS = 21;

struct alignas(8) Rotation {
    float cos, sin;
};

struct QkArgs {
    const void* qkv;
    const float* norm_q;
    const float* norm_k;
    // The RoPE table: for each frame, then each row, then each column of the grid, the rotations of its pairs.
    const Rotation* cos_sin;
    void* q;
    u32 tokens, dim, frames, rows, cols;
    // Keys and values, for each frame pair.
    void* k[MAX_GROUPS];
    void* v[MAX_GROUPS];
};

// The rotation of a channel pair of a head for the token at `index`.
DEVICE Rotation rotation_of(const QkArgs& args, u32 index, u32 pair) {
    const u32 window_cols = args.cols / SIDE, windows = args.rows / SIDE * window_cols;
    const u32 window = index / WINDOW, token = index % WINDOW;
    if (pair < TIME_PAIRS) {
        const u32 frame = window / windows * 2 + token / (SIDE * SIDE);
        return args.cos_sin[frame * TIME_PAIRS + pair];
    }
    const Rotation* space = args.cos_sin + args.frames * TIME_PAIRS;
    if (pair < TIME_PAIRS + SPACE_PAIRS) {
        const u32 row = window % windows / window_cols * SIDE + token / SIDE % SIDE;
        return space[row * SPACE_PAIRS + pair - TIME_PAIRS];
    }
    const u32 col = window % windows % window_cols * SIDE + token % SIDE;
    return space[(args.rows + col) * SPACE_PAIRS + pair - TIME_PAIRS - SPACE_PAIRS];
}

// Splits qkv: normalises and rotates queries and keys, copies values. A warp takes the queries (block_y 0), keys (1) or
// values (2) of a token. One access of a warp spans whole heads, so that a lane sees the same channels in every head
// that it reads, and keeps their rotations.
template <class T> DEVICE void qk_norm_rope(const QkArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    static_assert(WARP * N % HEAD == 0, "a lane sees the same channels of every head");
    using Vec16 = Vector<T, N>;
    const u32 token = block_x() * (THREADS / WARP) + warp();
    if (token >= args.tokens) return;
    const u32 dim = args.dim, part = block_y(), group_tokens = args.tokens / (args.frames / 2);
    const T* x = static_cast<const T*>(args.qkv) + u64(token) * 3 * dim + part * dim;
    const u32 group = token / group_tokens;
    const u32 row = part == 0 ? token : token - group * group_tokens;
    void* base = part == 0 ? args.q : part == 1 ? args.k[group] : args.v[group];
    const TiledQkv<T> layout{dim};
    T* out = static_cast<T*>(base) + layout.tile(row / WINDOW, lane() * N / HEAD) +
             layout.vec16(row % WINDOW, lane() % (HEAD / N));
    const u32 step = WARP * N / HEAD * layout.next_head();

    if (part == 2) {
        for (u32 col = lane() * N; col < dim; col += WARP * N, out += step)
            *reinterpret_cast<Vec16*>(out) = *reinterpret_cast<const Vec16*>(x + col);
        return;
    }
    float squares = 0;
    for (u32 col = lane() * N; col < dim; col += WARP * N) {
        const auto v = *reinterpret_cast<const Vec16*>(x + col);
#pragma unroll
        for (u32 i = 0; i < N; ++i) squares += to_float(v.values[i]) * to_float(v.values[i]);
    }
    const float inverse = 1.0f / sqrtf(warp_sum(squares) / float(dim) + EPS);

    Rotation rotations[N / 2];
#pragma unroll
    for (u32 i = 0; i < N / 2; ++i) rotations[i] = rotation_of(args, token, lane() * N % HEAD / 2 + i);
    const float* gamma = part == 0 ? args.norm_q : args.norm_k;
#pragma unroll 1
    for (u32 col = lane() * N; col < dim; col += WARP * N, out += step) {
        auto v = *reinterpret_cast<const Vec16*>(x + col);
        Vector<float, 4> scale[N / 4];
#pragma unroll
        for (u32 i = 0; i < N / 4; ++i) scale[i] = *reinterpret_cast<const Vector<float, 4>*>(gamma + col + 4 * i);
#pragma unroll
        for (u32 i = 0; i < N; i += 2) {
            const float a = to_float(v.values[i]) * inverse * scale[i / 4].values[i % 4];
            const float b = to_float(v.values[i + 1]) * inverse * scale[i / 4].values[i % 4 + 1];
            const Rotation rotation = rotations[i / 2];
            v.values[i] = from_float<T>(a * rotation.cos - b * rotation.sin);
            v.values[i + 1] = from_float<T>(a * rotation.sin + b * rotation.cos);
        }
        *reinterpret_cast<Vec16*>(out) = v;
    }
}

struct MeanArgs {
    const void* q;
    float* q_mean;
    u32 dim, group_windows;
    // Keys and their means, for each frame pair.
    const void* k[MAX_GROUPS];
    float* k_mean[MAX_GROUPS];
};

// Rows of a window that one access of a block spans.
template <class T> constexpr u32 ROWS = THREADS * PER_16_BYTES<T> / HEAD;

template <class T> struct MeanShared {
    float sums[ROWS<T>][HEAD];
};

// Computes the means over windows. A block takes one head of one window of the queries (block_z 0) or the keys (1).
template <class T> DEVICE void window_means(const MeanArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    auto& sums = shared_memory<MeanShared<T>>().sums;
    const u32 window = block_x(), group = window / args.group_windows, in_group = window % args.group_windows;
    const bool keys = block_z() == 1;
    const u32 own_window = keys ? in_group : window;
    const u32 col = thread() * N % HEAD, first = thread() * N / HEAD;
    const TiledQkv<T> layout{args.dim};
    const T* x = static_cast<const T*>(keys ? args.k[group] : args.q) +
                 layout.tile(own_window, block_y()) + layout.vec16(first, col / N);

    float sum[N] = {};
#pragma unroll 8
    for (u32 row = first; row < WINDOW; row += ROWS<T>, x += layout.below(ROWS<T>)) {
        const auto v = *reinterpret_cast<const Vector<T, N>*>(x);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sum[i] += to_float(v.values[i]);
    }
#pragma unroll
    for (u32 i = 0; i < N; ++i) sums[first][col + i] = sum[i];
    block_barrier();
    float total = 0;
    for (u32 row = 0; row < ROWS<T>; ++row) total += sums[row][thread()];
    float* mean = (keys ? args.k_mean[group] : args.q_mean) + u64(own_window) * args.dim;
    mean[block_y() * HEAD + thread()] = total / float(WINDOW);
}

}

KERNELS(qk_norm_rope, THREADS, NoSharedFor, QkArgs)
KERNELS(window_means, THREADS, MeanShared, MeanArgs)
