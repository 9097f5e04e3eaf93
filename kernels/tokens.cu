// SPDX-License-Identifier: MPL-2.0
//
// Noise; latents to tokens in window order, and back.

#include "vector_io.cuh"

namespace {

constexpr u32 THREADS = 256;
// The most latent frames of a launch.
constexpr u32 FRAMES = 64;
// Channels of a latent, features of its 2x2 patches, and features of the half of a patch in one row.
constexpr u32 CHANNELS = 16, PATCH = 4 * CHANNELS, HALF_PATCH = 2 * CHANNELS;
// Tokens along a side of an attention window, and tokens of one of its two frames.
constexpr u32 SIDE = 8, AREA = SIDE * SIDE;

struct NoiseArgs {
    void* maps[FRAMES];
    u64 seed, window, first_quad;
    u32 frame_quads;
};

// Arguments for a run of latent frames, the first of which has an even index.
struct GatherArgs {
    const void* frames[FRAMES];
    void* out;
    u32 tokens, rows, cols, width;
};

struct DenoiseArgs {
    const void* noise[FRAMES];
    void* out[FRAMES];
    const void* head;
    u32 rows, cols;
};

struct Position {
    u32 frame, row, col;
};

// The position of the token at `index` in window order: windows of 2 frames x 8 rows x 8 columns, ordered by (frame
// pair, window row, window column), tokens inside by (frame, row, column).
DEVICE Position position(u32 index, u32 rows, u32 cols) {
    const u32 window = index / (2 * AREA), token = index % (2 * AREA);
    const u32 window_cols = cols / SIDE, windows = rows / SIDE * window_cols;
    const u32 pair = window / windows, in_pair = window % windows;
    return {pair * 2 + token / AREA, in_pair / window_cols * SIDE + token % AREA / SIDE,
            in_pair % window_cols * SIDE + token % SIDE};
}

// The index in window order of the token at a position.
DEVICE u32 window_order(Position p, u32 rows, u32 cols) {
    const u32 window = (p.frame / 2 * (rows / SIDE) + p.row / SIDE) * (cols / SIDE) + p.col / SIDE;
    return window * 2 * AREA + p.frame % 2 * AREA + p.row % SIDE * SIDE + p.col % SIDE;
}

struct Words {
    u32 values[4];
};

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).
DEVICE Words philox(u64 low, u64 high, u64 seed) {
    u32 c[4] = {u32(low), u32(low >> 32), u32(high), u32(high >> 32)};
    u32 k[2] = {u32(seed), u32(seed >> 32)};
#pragma unroll
    for (u32 round = 0; round < 10; ++round) {
        const u64 p0 = u64(0xD2511F53u) * c[0], p1 = u64(0xCD9E8D57u) * c[2];
        c[0] = u32(p1 >> 32) ^ c[1] ^ k[0];
        c[1] = u32(p1);
        c[2] = u32(p0 >> 32) ^ c[3] ^ k[1];
        c[3] = u32(p0);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    return {{c[0], c[1], c[2], c[3]}};
}

// Turns two random words into two normal values (Box-Muller), in f64 as on the host.
DEVICE void normal_pair(float* out, u32 a, u32 b) {
    constexpr double UNIT = 1.0 / 4294967296.0;
    // (0, 1] and [0, 1): the logarithm stays finite.
    const double radius = sqrt(-2.0 * log((double(a) + 1.0) * UNIT));
    double sine, cosine;
    sincospi(2 * UNIT * double(b), &sine, &cosine);
    out[0] = float(radius * cosine);
    out[1] = float(radius * sine);
}

// Fills latents with noise. Values are numbered in (frame, row, column, channel) order, and each four of them come from
// one counter of Philox. A thread writes 16 bytes.
template <class T> DEVICE void noise(const NoiseArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    const u32 frame = block_y(), quad = (block_x() * THREADS + thread()) * (N / 4);
    if (quad >= args.frame_quads) return;
    float values[N];
#pragma unroll
    for (u32 i = 0; i < N; i += 4) {
        const u64 number = args.first_quad + u64(frame) * args.frame_quads + quad + i / 4;
        const Words words = philox(number, args.window, args.seed);
        normal_pair(values + i, words.values[0], words.values[1]);
        normal_pair(values + i + 2, words.values[2], words.values[3]);
    }
    store(static_cast<T*>(args.maps[frame]) + u64(quad) * 4, values);
}

// Gathers 2x2 patches of latents as rows in window order, features ordered by (row, column, channel). A thread moves 16
// bytes.
template <class T> DEVICE void gather_patches(const GatherArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>, VECS = PATCH / N;
    const u64 vec = u64(block_x()) * THREADS + thread();
    const u32 token = u32(vec / VECS), feature = u32(vec % VECS) * N;
    if (token >= args.tokens) return;
    const Position p = position(token, args.rows, args.cols);
    const u64 row = u64(p.row) * 2 + feature / HALF_PATCH;
    const T* source = static_cast<const T*>(args.frames[p.frame]) + (row * args.cols + p.col) * HALF_PATCH;
    *reinterpret_cast<Vector<T, N>*>(static_cast<T*>(args.out) + u64(token) * PATCH + feature) =
        *reinterpret_cast<const Vector<T, N>*>(source + feature % HALF_PATCH);
}

// Reorders rows from row-major order of each frame to window order. A warp moves a row.
template <class T> DEVICE void gather_rows(const GatherArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    const u32 token = block_x() * (THREADS / WARP) + warp();
    if (token >= args.tokens) return;
    const Position p = position(token, args.rows, args.cols);
    const T* source = static_cast<const T*>(args.frames[p.frame]) + (u64(p.row) * args.cols + p.col) * args.width;
    T* out = static_cast<T*>(args.out) + u64(token) * args.width;
    if (args.width % N == 0) {
        for (u32 i = lane() * N; i < args.width; i += WARP * N) {
            *reinterpret_cast<Vector<T, N>*>(out + i) = *reinterpret_cast<const Vector<T, N>*>(source + i);
        }
    } else {
        for (u32 i = lane(); i < args.width; i += WARP) out[i] = source[i];
    }
}

// Subtracts the head's prediction, in window order, from the noise, as latents. A thread writes 16 bytes.
template <class T> DEVICE void denoise(const DenoiseArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>, VECS = HALF_PATCH / N;
    const u32 vec = block_x() * THREADS + thread(), row = block_y(), frame = block_z();
    const u32 col = vec / VECS, feature = vec % VECS * N;
    if (col >= args.cols) return;
    const u64 token = window_order({frame, row / 2, col}, args.rows, args.cols);
    const u64 at = (u64(row) * args.cols + col) * HALF_PATCH + feature;
    float values[N], prediction[N];
    load(values, static_cast<const T*>(args.noise[frame]) + at);
    load(prediction, static_cast<const T*>(args.head) + token * PATCH + row % 2 * HALF_PATCH + feature);
#pragma unroll
    for (u32 i = 0; i < N; ++i) values[i] -= prediction[i];
    store(static_cast<T*>(args.out[frame]) + at, values);
}

}

KERNELS(noise, THREADS, NoSharedFor, NoiseArgs)
KERNELS(gather_patches, THREADS, NoSharedFor, GatherArgs)
KERNELS(gather_rows, THREADS, NoSharedFor, GatherArgs)
KERNELS(denoise, THREADS, NoSharedFor, DenoiseArgs)
