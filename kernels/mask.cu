// SPDX-License-Identifier: MPL-2.0
//
// The draft mask: scores of mean queries and mean keys, their softmax, and the top k entries of the table of each head
// and frame pair of queries: those strictly greater than the (K + 1)-th largest.

#include "attention.cuh"

namespace {

constexpr u32 SCORE_THREADS = 256;
// Query windows of a block. They are neighbours in a row of windows, so that they share most of their keys.
constexpr u32 QUERIES = 4;

struct ScoreArgs {
    const void* q_mean;
    float* table;
    u32 dim, queries, keys, windows, window_cols, local_range;
    // The mean keys of each frame pair.
    const void* k_means[MAX_GROUPS];
};

template <class T> struct ScoreShared {
    float q[QUERIES][HEAD];
    float partial[SCORE_THREADS / WARP][QUERIES];
};

// Tells whether a row or column of windows is in the neighbourhood of another; the picture's border cuts neighbourhoods off.
DEVICE bool is_near(u32 query, u32 key, u32 range) {
    const i32 offset = i32(key) - i32(query) + i32(range / 2);
    return offset >= 0 && offset < i32(range);
}

// Reduces one value per query over all threads of the block; every thread gets the results.
template <class F> DEVICE void reduce(float (&x)[QUERIES], float (&partial)[SCORE_THREADS / WARP][QUERIES], F combine) {
#pragma unroll
    for (float& value : x)
        for (u32 step = WARP / 2; step > 0; step /= 2) value = combine(value, shuffle_xor(value, step));
    if (lane() == 0)
        for (u32 i = 0; i < QUERIES; ++i) partial[warp()][i] = x[i];
    block_barrier();
#pragma unroll
    for (u32 i = 0; i < QUERIES; ++i) {
        x[i] = partial[0][i];
        for (u32 w = 1; w < SCORE_THREADS / WARP; ++w) x[i] = combine(x[i], partial[w][i]);
    }
    block_barrier();
}

// Computes scores and their softmax for QUERIES query windows (block_x) of a head (block_y). A thread works on the same
// keys for all of them.
template <class T> DEVICE void draft_scores(const ScoreArgs& args) {
    constexpr u32 N = PER_16_BYTES<T>;
    auto& shared = shared_memory<ScoreShared<T>>();
    const u32 head = block_y(), first = block_x() * QUERIES;
    const u32 queries = min(args.queries - first, QUERIES);
    for (u32 i = thread(); i < QUERIES * HEAD; i += SCORE_THREADS) {
        const u32 query = min(i / HEAD, queries - 1);
        const T* q = static_cast<const T*>(args.q_mean) + u64(first + query) * args.dim + head * HEAD;
        shared.q[i / HEAD][i % HEAD] = to_float(q[i % HEAD]);
    }
    u32 rows[QUERIES], cols[QUERIES];
#pragma unroll
    for (u32 i = 0; i < QUERIES; ++i) {
        const u32 window = (first + min(i, queries - 1)) % args.windows;
        rows[i] = window / args.window_cols;
        cols[i] = window % args.window_cols;
    }
    block_barrier();

    float* table = args.table + (u64(head) * args.queries + first) * args.keys;
    float maximum[QUERIES], sum[QUERIES] = {};
#pragma unroll
    for (float& m : maximum) m = -infinity();
    for (u32 key = thread(); key < args.keys; key += SCORE_THREADS) {
        const u32 window = key % args.windows, row = window / args.window_cols, col = window % args.window_cols;
        bool local[QUERIES], any = false;
#pragma unroll
        for (u32 i = 0; i < QUERIES; ++i) {
            local[i] = is_near(rows[i], row, args.local_range) && is_near(cols[i], col, args.local_range);
            any |= local[i];
        }
        float score[QUERIES] = {};
        if (any) {
            const T* k = static_cast<const T*>(args.k_means[key / args.windows]) + u64(window) * args.dim + head * HEAD;
#pragma unroll 4
            for (u32 c = 0; c < HEAD; c += N) {
                const auto v = *reinterpret_cast<const Vector<T, N>*>(k + c);
#pragma unroll
                for (u32 i = 0; i < QUERIES; ++i)
                    for (u32 x = 0; x < N; ++x) score[i] += shared.q[i][c + x] * to_float(v.values[x]);
            }
        }
#pragma unroll
        for (u32 i = 0; i < QUERIES; ++i) {
            if (i >= queries) continue;
            const float s = local[i] ? score[i] * SOFTMAX_SCALE : -infinity();
            maximum[i] = fmaxf(maximum[i], s);
            table[u64(i) * args.keys + key] = s;
        }
    }
    reduce(maximum, shared.partial, [](float a, float b) { return fmaxf(a, b); });
    for (u32 key = thread(); key < args.keys; key += SCORE_THREADS)
#pragma unroll
        for (u32 i = 0; i < QUERIES; ++i) {
            if (i >= queries) continue;
            float& entry = table[u64(i) * args.keys + key];
            entry = expf(entry - maximum[i]);
            sum[i] += entry;
        }
    reduce(sum, shared.partial, [](float a, float b) { return a + b; });
    for (u32 key = thread(); key < args.keys; key += SCORE_THREADS)
#pragma unroll
        for (u32 i = 0; i < QUERIES; ++i)
            if (i < queries) table[u64(i) * args.keys + key] /= sum[i];
}

constexpr u32 SELECT_THREADS = 1024;
// The bits of a probability, at most 1, as a number of 30 bits: three digits of a radix selection.
constexpr u32 DIGIT_BITS = 10, BINS = 1 << DIGIT_BITS, LARGEST = (1 << 30) - 1;
// Copies of the histogram, to reduce contention on shared-memory atomics.
constexpr u32 COPIES = 4;

struct SelectArgs {
    const u32* table;
    float* thresholds;
    // Entries of a table, and how many of them come before the one to find.
    u32 entries, rank;
};

struct SelectShared {
    Vector<u32, COPIES> counts[BINS];
    u32 totals[BINS];
    u32 segment, segment_rank;
    u32 digit, rank;
    bool found;
};

DEVICE u32 shuffle_bits(u32 x, u32 mask) { return bits_of_float(shuffle_xor(float_of_bits(x), mask)); }

// The sum of `count` over the lanes above this one, by a butterfly: each step joins neighbouring groups of lanes.
DEVICE u32 sum_above(u32 count) {
    u32 above = 0;
    for (u32 step = 1; step < WARP; step *= 2) {
        const u32 other = shuffle_bits(count, step);
        if ((lane() & step) == 0) above += other;
        count += other;
    }
    return above;
}

// Finds the digit of the entry that `rank` others come before, and the rank of that entry among those with this digit:
// first the segment of bins, a lane each, then the bin in it. Runs in one warp.
DEVICE void find_digit(SelectShared& shared, u32 rank) {
    constexpr u32 SEGMENT = BINS / WARP;
    static_assert(SEGMENT == WARP, "a lane takes a bin of a segment");
    const u32 l = lane();
    u32 total = 0;
    for (u32 i = 0; i < SEGMENT; ++i) total += shared.totals[l * SEGMENT + (i + l) % SEGMENT];
    const u32 above = sum_above(total);
    const bool here = above <= rank && rank - above < total;
    if (here) {
        shared.segment = l;
        shared.segment_rank = rank - above;
    }
    const bool found = ballot(here) != 0;
    if (l == 0) shared.found = found;
    warp_barrier();
    if (!found) return;
    const u32 bin = shared.segment * SEGMENT + l, before = sum_above(shared.totals[bin]);
    if (before <= shared.segment_rank && shared.segment_rank - before < shared.totals[bin]) {
        shared.digit = bin;
        shared.rank = shared.segment_rank - before;
    }
}

// Finds the value of the entry that `rank` others come before, one table per block: a radix selection, the highest
// digit first, on the bits of the probabilities, which are not negative, so that their bits have the same order. Zeros,
// most of the table, are not counted: where no digit is found, the entry is 0. NaN counts as more than 1.
DEVICE void select(const SelectArgs& args) {
    SelectShared& shared = shared_memory<SelectShared>();
    const u32* table = args.table + u64(block_x()) * args.entries;
    u32 prefix = 0, rank = args.rank;
    for (u32 shift = 2 * DIGIT_BITS;; shift -= DIGIT_BITS) {
        for (u32 i = thread(); i < BINS; i += SELECT_THREADS) shared.counts[i] = {};
        block_barrier();
#pragma unroll 8
        for (u32 i = thread(); i < args.entries; i += SELECT_THREADS) {
            const u32 bits = min(table[i], LARGEST);
            if (bits != 0 && bits >> shift >> DIGIT_BITS == prefix)
                atomic_add_shared(&shared.counts[(bits >> shift) % BINS].values[lane() % COPIES], 1);
        }
        block_barrier();
        for (u32 i = thread(); i < BINS; i += SELECT_THREADS) {
            u32 total = 0;
            for (u32 count : shared.counts[i].values) total += count;
            shared.totals[i] = total;
        }
        block_barrier();
        if (warp() == 0) find_digit(shared, rank);
        block_barrier();
        if (!shared.found) {
            prefix = 0;
            break;
        }
        prefix = prefix << DIGIT_BITS | shared.digit;
        rank = shared.rank;
        if (shift == 0) break;
    }
    if (thread() == 0) args.thresholds[block_x()] = float_of_bits(prefix);
}

constexpr u32 LIST_THREADS = 128;
// Entries that a lane reads before it writes any.
constexpr u32 CHUNKS = 4;

struct ListArgs {
    u32* table;
    u32* counts;
    const float* thresholds;
    u32 rows, windows, keys;
};

// Lists the top k entries of a row of the table, in place: no entry is written before it has been read. A warp takes a
// row.
DEVICE void list(const ListArgs& args) {
    const u32 row = block_x() * (LIST_THREADS / WARP) + warp();
    if (row >= args.rows) return;
    u32* entries = args.table + u64(row) * args.keys;
    const float threshold = args.thresholds[row / args.windows];
    u32 count = 0;
    for (u32 first = lane(); first - lane() < args.keys; first += CHUNKS * WARP) {
        bool kept[CHUNKS];
#pragma unroll
        for (u32 i = 0; i < CHUNKS; ++i) {
            const u32 key = first + i * WARP;
            kept[i] = key < args.keys && float_of_bits(entries[key]) > threshold;
        }
        u32 votes[CHUNKS];
#pragma unroll
        for (u32 i = 0; i < CHUNKS; ++i) votes[i] = ballot(kept[i]);
#pragma unroll
        for (u32 i = 0; i < CHUNKS; ++i) {
            if (kept[i]) entries[count + count_bits(votes[i] & ((1u << lane()) - 1))] = first + i * WARP;
            count += count_bits(votes[i]);
        }
    }
    if (lane() == 0) args.counts[row] = count;
}

struct OrderArgs {
    const u32* counts;
    u32* order;
    // The counter of HopperArgs.
    u32* work_counter;
    u32 queries;
};

// Orders the query windows of a head (block_y), those with the longest lists first, in which order attention works on
// them: the longest must not start last. Also resets the work counter.
DEVICE void order(const OrderArgs& args) {
    const u32 query = block_x() * LIST_THREADS + thread();
    if (query == 0 && block_y() == 0) *args.work_counter = 0;
    if (query >= args.queries) return;
    const u64 head = u64(block_y()) * args.queries;
    const u32* counts = args.counts + head;
    const u32 count = counts[query];
    u32 position = 0;
#pragma unroll 8
    for (u32 i = 0; i < args.queries; ++i) position += counts[i] > count || (counts[i] == count && i < query);
    args.order[head + position] = query;
}

}

KERNELS(draft_scores, SCORE_THREADS, ScoreShared, ScoreArgs)
KERNEL(draft_select, SELECT_THREADS, SelectShared, SelectArgs) { select(args); }
KERNEL(draft_list, LIST_THREADS, NoShared, ListArgs) { list(args); }
KERNEL(draft_order, LIST_THREADS, NoShared, OrderArgs) { order(args); }
