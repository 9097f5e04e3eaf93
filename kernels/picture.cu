// SPDX-License-Identifier: MPL-2.0
//
// Pictures: as frames for output, as feature maps for the network, and back.

#include "vector_io.cuh"

namespace {

constexpr u32 THREADS = 256;
// Values that a thread takes in kernels of f32 alone.
constexpr u32 FLOATS = 4;
// 16-byte vectors that a thread of is_finite reads.
constexpr u32 RUNS = 4;

struct EmitArgs {
    const float* picture;
    // The picture to write in its place if the flag is set; both may be null.
    const float* fallback;
    const u32* non_finite;
    void* out;
    u32 height, width, rows, cols;
    float half;
};

struct AddArgs {
    const float* a;
    const float* b;
    float* out;
    u64 count;
};

struct FiniteArgs {
    const void* values;
    u32* found;
    u64 count;
};

struct UnshuffleArgs {
    const float* picture;
    void* map;
    u32 height, width;
};

struct DecoderInputArgs {
    const float* pictures[4];
    const void* latent;
    void* map;
    u32 height, width;
};

struct ToPictureArgs {
    const void* map;
    float* picture;
    u64 area;
};

// Writes the top left of a picture as packed RGB; `half` is 0.5 for rounding and 0 for truncation. NaN becomes 0.
template <class S> DEVICE void emit(const EmitArgs& args, float top) {
    const float* picture = args.non_finite && *args.non_finite ? args.fallback : args.picture;
    const u32 x = (block_x() * THREADS + thread()) * FLOATS, y = block_y();
    if (x >= args.cols) return;
    const u32 count = args.cols - x;
    S samples[3 * FLOATS];
#pragma unroll
    for (u32 c = 0; c < 3; ++c) {
        float values[FLOATS];
        const float* source = picture + (u64(c) * args.height + y) * args.width + x;
        load_some(values, source, args.width - x, args.width % FLOATS == 0);
#pragma unroll
        for (u32 i = 0; i < FLOATS; ++i) {
            samples[3 * i + c] = S(u32(fminf(fmaxf((values[i] + 1.0f) * (top / 2.0f), 0.0f), top) + args.half));
        }
    }
    S* out = static_cast<S*>(args.out) + (u64(y) * args.cols + x) * 3;
    if (args.cols % FLOATS == 0) {
#pragma unroll
        for (u32 i = 0; i < 3; ++i) {
            Vector<S, 4> v;
#pragma unroll
            for (u32 j = 0; j < 4; ++j) v.values[j] = samples[4 * i + j];
            *reinterpret_cast<Vector<S, 4>*>(out + 4 * i) = v;
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < 3 * FLOATS; ++i)
            if (i < 3 * count) out[i] = samples[i];
    }
}

DEVICE void add(const AddArgs& args) {
    const u64 first = (u64(block_x()) * THREADS + thread()) * FLOATS;
    if (first >= args.count) return;
    const u32 count = u32(min(args.count - first, u64(FLOATS)));
    float a[FLOATS], b[FLOATS];
    load_some(a, args.a + first, count, true);
    load_some(b, args.b + first, count, true);
#pragma unroll
    for (u32 i = 0; i < FLOATS; ++i) a[i] += b[i];
    store_some(args.out + first, a, count, true);
}

// Sets `found` if a value is not finite.
template <class T> DEVICE void is_finite(const FiniteArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    constexpr float LARGEST = 3.402823466e38f;
    const T* values = static_cast<const T*>(args.values);
    bool finite = true;
#pragma unroll
    for (u32 run = 0; run < RUNS; ++run) {
        const u64 first = ((u64(block_x()) * RUNS + run) * THREADS + thread()) * N;
        if (first >= args.count) break;
        float v[N];
        load_some(v, values + first, u32(min(args.count - first, u64(N))), true);
#pragma unroll
        for (u32 i = 0; i < N; ++i) finite = finite && fabsf(v[i]) <= LARGEST;
    }
    if (!finite) atomic_or(args.found, 1);
}

// Space-to-depth by 16: channel c * 256 + dy * 16 + dx. A thread writes 16 bytes of the map.
template <class T> DEVICE void pixel_unshuffle(const UnshuffleArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>, SIDE = 16, CHANNELS = 3 * SIDE * SIDE;
    const u32 vec = block_x() * THREADS + thread();
    const u32 channel = vec % (CHANNELS / N) * N, x = vec / (CHANNELS / N), y = block_y();
    if (x >= args.width) return;
    const u32 c = channel / (SIDE * SIDE), dy = channel / SIDE % SIDE, dx = channel % SIDE;
    const u64 row = (u64(c) * args.height + y) * SIDE + dy;
    float values[N];
    load(values, args.picture + (row * args.width + x) * SIDE + dx);
    store(static_cast<T*>(args.map) + (u64(y) * args.width + x) * CHANNELS + channel, values);
}

// The decoder's input: space-to-depth of four pictures by 4x8x8, channel c * 256 + dt * 64 + dy * 8 + dx, then the
// latent, all through a soft clamp, 3 * tanh(x / 3).
template <class T> DEVICE void decoder_input(const DecoderInputArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>, SIDE = 8, DEPTH = 3 * 4 * SIDE * SIDE, LATENT = 16, CHANNELS = DEPTH + LATENT;
    const u32 vec = block_x() * THREADS + thread();
    const u32 channel = vec % (CHANNELS / N) * N, x = vec / (CHANNELS / N), y = block_y();
    if (x >= args.width) return;
    const u64 position = u64(y) * args.width + x;
    float values[N];
    if (channel < DEPTH) {
        const u32 c = channel / 256, dt = channel / 64 % 4, dy = channel / SIDE % SIDE, dx = channel % SIDE;
        const u64 row = (u64(c) * args.height + y) * SIDE + dy;
        load(values, args.pictures[dt] + (row * args.width + x) * SIDE + dx);
    } else {
        load(values, static_cast<const T*>(args.latent) + position * LATENT + channel - DEPTH);
    }
#pragma unroll
    for (u32 i = 0; i < N; ++i) values[i] = tanhf(values[i] / 3.0f) * 3.0f;
    store(static_cast<T*>(args.map) + position * CHANNELS + channel, values);
}

// Turns pixels of three channels into three planes, x * 2 - 1. A thread reads 48 bytes.
template <class T> DEVICE void to_picture(const ToPictureArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    const u64 first = (u64(block_x()) * THREADS + thread()) * N;
    if (first >= args.area) return;
    const u32 count = u32(min(args.area - first, u64(N)));
    float pixels[3 * N];
    load_some(pixels, static_cast<const T*>(args.map) + 3 * first, 3 * count, true);
    const bool aligned = args.area % FLOATS == 0;
    float* plane = args.picture + first;
#pragma unroll
    for (u32 c = 0; c < 3; ++c, plane += args.area) {
        float values[N];
#pragma unroll
        for (u32 i = 0; i < N; ++i) values[i] = pixels[3 * i + c] * 2.0f - 1.0f;
        store_some(plane, values, count, aligned);
    }
}

}

KERNEL(emit_u8, THREADS, NoShared, EmitArgs) { emit<u8>(args, 255.0f); }
KERNEL(emit_u16, THREADS, NoShared, EmitArgs) { emit<u16>(args, 65535.0f); }
KERNEL(add_pictures, THREADS, NoShared, AddArgs) { add(args); }
KERNELS(is_finite, THREADS, NoSharedFor, FiniteArgs)
KERNELS(pixel_unshuffle, THREADS, NoSharedFor, UnshuffleArgs)
KERNELS(decoder_input, THREADS, NoSharedFor, DecoderInputArgs)
KERNELS(to_picture, THREADS, NoSharedFor, ToPictureArgs)
