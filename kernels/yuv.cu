// SPDX-License-Identifier: MPL-2.0
//
// Frames as video has them, to packed RGB and back: planes or packed samples in any order, RGB or YCbCr, whose chroma
// may be halved along either axis. Chroma is interpolated linearly on the way in; on the way out it is the mean of two
// pixels where it lies between them, and weighted 1, 2, 1 where it lies on one. GstVideoConverter does the same, but
// rounds in between, and leaves chroma as it is down the rows where it is cosited with them.

#include "prims.cuh"

namespace {

constexpr u32 THREADS = 128;

// The samples of a component: the first one, the pitch of rows and the step from one to the next, in samples.
struct Component {
    void* samples;
    u32 pitch, step;
};

// Chroma along an axis: the number of its samples, whether it is subsampled, and whether a sample is then cosited with
// the first of its two pixels or lies between them.
struct Chroma {
    u32 count, halved, cosited;
};

// An affine map of a pixel: matrix * components + offset.
struct Affine {
    float matrix[3][3];
    float offset[3];
};

struct ToRgbArgs {
    Component components[3];
    void* rgb;
    Affine affine;
    Chroma across, down;
    u32 width, shift;
};

struct FromRgbArgs {
    const float* picture;
    // The picture to write in its place if the flag is set; both may be null.
    const float* fallback;
    const u32* non_finite;
    // The fourth, a filler, is set to its largest value; its samples may be null.
    Component components[4];
    Affine affine;
    Chroma across, down;
    u32 height, width, rows, cols, shift;
    float top, half, largest;
};

// The two chroma samples between which a pixel lies, and the weight of the second.
struct Pair {
    u32 first, second;
    float weight;
};

DEVICE Pair around(const Chroma& axis, u32 pixel) {
    if (!axis.halved) return {pixel, pixel, 0.0f};
    const u32 first = pixel / 2, next = min(first + 1, axis.count - 1);
    if (axis.cosited) return {first, pixel % 2 ? next : first, 0.5f};
    return {first, pixel % 2 ? next : max(first, 1u) - 1, 0.25f};
}

DEVICE float mix(float a, float b, float weight) { return a + (b - a) * weight; }

template <class S> DEVICE float sample(const Component& c, u32 shift, u32 x, u32 y) {
    return float(static_cast<const S*>(c.samples)[u64(y) * c.pitch + u64(x) * c.step] >> shift);
}

// Converts a frame to packed RGB. A thread computes a pixel.
template <class From, class To> DEVICE void to_rgb(const ToRgbArgs& args, float top) {
    const u32 x = block_x() * THREADS + thread(), y = block_y();
    if (x >= args.width) return;
    const Pair across = around(args.across, x), down = around(args.down, y);
    float values[3];
    values[0] = sample<From>(args.components[0], args.shift, x, y);
#pragma unroll
    for (u32 c = 1; c < 3; ++c) {
        const Component& chroma = args.components[c];
        float lines[2];
#pragma unroll
        for (u32 i = 0; i < 2; ++i) {
            const u32 row = i ? down.second : down.first;
            const float first = sample<From>(chroma, args.shift, across.first, row);
            lines[i] = mix(first, sample<From>(chroma, args.shift, across.second, row), across.weight);
        }
        values[c] = mix(lines[0], lines[1], down.weight);
    }
    To* rgb = static_cast<To*>(args.rgb) + (u64(y) * args.width + x) * 3;
#pragma unroll
    for (u32 c = 0; c < 3; ++c) {
        const float* row = args.affine.matrix[c];
        const float value = row[0] * values[0] + row[1] * values[1] + row[2] * values[2] + args.affine.offset[c];
        rgb[c] = To(u32(clamp(value, 0.0f, top) + 0.5f));
    }
}

// Loads a pixel, rounded to an integer as in packed RGB. NaN becomes 0.
DEVICE void load_pixel(float (&rgb)[3], const FromRgbArgs& args, const float* picture, u32 x, u32 y) {
#pragma unroll
    for (u32 c = 0; c < 3; ++c) {
        const float value = picture[(u64(c) * args.height + y) * args.width + x];
        rgb[c] = float(u32(fminf(fmaxf((value + 1.0f) * (args.top / 2.0f), 0.0f), args.top) + args.half));
    }
}

// The weights with which a chroma sample averages the pixel before its first one, that one, and the next.
DEVICE void weights(float (&to)[3], const Chroma& axis) {
    to[0] = axis.halved && axis.cosited ? 0.25f : 0.0f;
    to[1] = axis.halved ? 0.5f : 1.0f;
    to[2] = 1.0f - to[0] - to[1];
}

template <class S> DEVICE void write(const Component& c, u32 x, u32 y, u32 value) {
    static_cast<S*>(c.samples)[u64(y) * c.pitch + u64(x) * c.step] = S(value);
}

template <class S> DEVICE void write(const FromRgbArgs& args, u32 component, u32 x, u32 y, const float (&rgb)[3]) {
    const float* row = args.affine.matrix[component];
    const float value = row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2] + args.affine.offset[component];
    write<S>(args.components[component], x, y, u32(clamp(value, 0.0f, args.largest) + 0.5f) << args.shift);
}

// Writes the top left of a picture as components. A thread computes a chroma sample, and the first component of
// its pixels.
template <class S> DEVICE void from_rgb(const FromRgbArgs& args) {
    const float* picture = args.non_finite && *args.non_finite ? args.fallback : args.picture;
    const u32 chroma_x = block_x() * THREADS + thread(), chroma_y = block_y();
    if (chroma_x >= args.across.count) return;
    const u32 left = chroma_x << args.across.halved, top = chroma_y << args.down.halved;
    float rgb[3];
    for (u32 y = top; y < min(top + 1 + args.down.halved, args.rows); ++y) {
        for (u32 x = left; x < min(left + 1 + args.across.halved, args.cols); ++x) {
            load_pixel(rgb, args, picture, x, y);
            write<S>(args, 0, x, y, rgb);
            if (args.components[3].samples) write<S>(args.components[3], x, y, u32(args.largest) << args.shift);
        }
    }
    float across[3], down[3], sum[3] = {0.0f, 0.0f, 0.0f};
    weights(across, args.across);
    weights(down, args.down);
#pragma unroll
    for (u32 j = 0; j < 3; ++j) {
        if (down[j] == 0.0f) continue;
        const u32 y = min(max(top + j, 1u) - 1, args.rows - 1);
#pragma unroll
        for (u32 i = 0; i < 3; ++i) {
            if (across[i] == 0.0f) continue;
            load_pixel(rgb, args, picture, min(max(left + i, 1u) - 1, args.cols - 1), y);
#pragma unroll
            for (u32 c = 0; c < 3; ++c) sum[c] += down[j] * across[i] * rgb[c];
        }
    }
    write<S>(args, 1, chroma_x, chroma_y, sum);
    write<S>(args, 2, chroma_x, chroma_y, sum);
}

}

KERNEL(to_rgb_u8_u8, THREADS, NoShared, ToRgbArgs) { to_rgb<u8, u8>(args, 255.0f); }
KERNEL(to_rgb_u8_u16, THREADS, NoShared, ToRgbArgs) { to_rgb<u8, u16>(args, 65535.0f); }
KERNEL(to_rgb_u16_u16, THREADS, NoShared, ToRgbArgs) { to_rgb<u16, u16>(args, 65535.0f); }
KERNEL(from_rgb_u8, THREADS, NoShared, FromRgbArgs) { from_rgb<u8>(args); }
KERNEL(from_rgb_u16, THREADS, NoShared, FromRgbArgs) { from_rgb<u16>(args); }
