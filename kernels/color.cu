// SPDX-License-Identifier: MPL-2.0
//
// Colour correction of the output by the input: AdaIN, or a wavelet decomposition.

#include "vector_io.cuh"

namespace {

constexpr u32 THREADS = 256;
constexpr u32 FLOATS = 4;
constexpr double EPS = 1e-5;

// The sum of values and of their squares.
struct Moments {
    double sum, squares;
};

struct BlockMoments {
    Moments threads[THREADS];
};

// An affine change of a plane: (v - from) * scale + to.
struct Change {
    float from, scale, to;
};

struct MomentsArgs {
    const float* pictures[2];
    Moments* partial;
    u64 area;
    u32 parts;
};

struct ChangeArgs {
    const Moments* partial;
    Change* change;
    u64 area;
    u32 parts;
};

struct ApplyArgs {
    const float* hq;
    const Change* change;
    float* out;
    u64 area;
};

struct BlurArgs {
    const float* low;
    const float* minus;
    const float* plus;
    float* out;
    u32 height, width, dilation;
};

// Sums the moments of a block's threads; the first thread gets the sum. In f64, so that the variance of an almost flat
// plane survives the subtraction of the squared mean.
DEVICE Moments block_sum(const Moments& own) {
    BlockMoments& shared = shared_memory<BlockMoments>();
    shared.threads[thread()] = own;
    block_barrier();
    Moments total{0, 0};
    if (thread() < WARP) {
        for (u32 i = thread(); i < THREADS; i += WARP) {
            total.sum += shared.threads[i].sum;
            total.squares += shared.threads[i].squares;
        }
        shared.threads[thread()] = total;
        warp_barrier();
        if (thread() == 0) {
            for (u32 i = 1; i < WARP; ++i) {
                total.sum += shared.threads[i].sum;
                total.squares += shared.threads[i].squares;
            }
        }
    }
    return total;
}

struct Statistics {
    double mean, deviation;
};

// The mean and standard deviation of a plane, with the biased variance of the reference.
DEVICE Statistics statistics(const ChangeArgs& args, u32 plane) {
    Moments own{0, 0};
    for (u32 part = thread(); part < args.parts; part += THREADS) {
        const Moments& partial = args.partial[plane * args.parts + part];
        own.sum += partial.sum;
        own.squares += partial.squares;
    }
    const Moments total = block_sum(own);
    const double count = double(args.area), mean = total.sum / count;
    return {mean, sqrt(fmax(total.squares / count - mean * mean, 0.0) + EPS)};
}

}

// Computes the moments of one part of a plane of one of the pictures, at [picture][plane][part].
KERNEL(plane_moments, THREADS, BlockMoments, MomentsArgs) {
    const u32 part = block_x(), plane = block_y(), picture = block_z();
    const float* values = args.pictures[picture] + plane * args.area;
    Moments own{0, 0};
    for (u64 i = (u64(part) * THREADS + thread()) * FLOATS; i < args.area; i += u64(args.parts) * THREADS * FLOATS) {
        float v[FLOATS];
        load_some(v, values + i, u32(min(args.area - i, u64(FLOATS))), args.area % FLOATS == 0);
#pragma unroll
        for (u32 j = 0; j < FLOATS; ++j) {
            own.sum += double(v[j]);
            own.squares += double(v[j]) * double(v[j]);
        }
    }
    const Moments total = block_sum(own);
    if (thread() == 0) args.partial[(picture * 3 + plane) * args.parts + part] = total;
}

// Finds the change that gives a plane of the first picture the mean and deviation of the second one's (AdaIN).
KERNEL(plane_change, THREADS, BlockMoments, ChangeArgs) {
    const u32 plane = block_x();
    const Statistics hq = statistics(args, plane);
    block_barrier();
    const Statistics lq = statistics(args, 3 + plane);
    if (thread() == 0) args.change[plane] = {float(hq.mean), float(lq.deviation / hq.deviation), float(lq.mean)};
}

KERNEL(apply_change, THREADS, NoShared, ApplyArgs) {
    const u64 first = (u64(block_x()) * THREADS + thread()) * FLOATS, plane = block_y() * args.area;
    if (first >= args.area) return;
    const u32 count = u32(min(args.area - first, u64(FLOATS)));
    const bool aligned = args.area % FLOATS == 0;
    const Change change = args.change[block_y()];
    float v[FLOATS];
    load_some(v, args.hq + plane + first, count, aligned);
#pragma unroll
    for (u32 i = 0; i < FLOATS; ++i) v[i] = clamp((v[i] - change.from) * change.scale + change.to, -1.0f, 1.0f);
    store_some(args.out + plane + first, v, count, aligned);
}

// Blurs `low`, or `low - minus`, by the kernel 1-2-1 / 4 along rows and columns, with a dilation and replicated edges:
// the low band of one level of the wavelet decomposition. The last level adds `plus` and clamps.
KERNEL(blur, THREADS, NoShared, BlurArgs) {
    const u32 x = block_x() * THREADS + thread(), y = block_y();
    if (x >= args.width) return;
    const u64 plane = u64(block_z()) * args.height * args.width;
    const u32 left = x - min(x, args.dilation), right = min(x + args.dilation, args.width - 1);
    const auto row = [&](u32 y) {
        const u64 line = plane + u64(y) * args.width;
        const auto value = [&](u32 x) {
            return args.minus ? args.low[line + x] - args.minus[line + x] : args.low[line + x];
        };
        return 0.25f * (value(left) + value(right)) + 0.5f * value(x);
    };
    const float above = row(y - min(y, args.dilation)), below = row(min(y + args.dilation, args.height - 1));
    const float sum = 0.25f * (above + below) + 0.5f * row(y);
    const u64 at = plane + u64(y) * args.width + x;
    args.out[at] = args.plus ? clamp(args.plus[at] + sum, -1.0f, 1.0f) : sum;
}
