// SPDX-License-Identifier: MPL-2.0
//
// Kernels with planted mistakes, and the same kernels without, to prove that the emulator tells them apart. Only tests
// run them.

#include "../prims.cuh"

namespace {

constexpr u32 THREADS = 128;

struct PlantedArgs {
    const float* x;
    float* out;
};

struct Exchange {
    float values[THREADS];
};

struct Staged {
    float values[2][4 * THREADS];
};

// Reverses 128 values. Without the barrier, a thread may read what nobody has written yet.
template <bool BARRIER> DEVICE void reverse(const PlantedArgs& args) {
    Exchange& shared = shared_memory<Exchange>();
    shared.values[thread()] = args.x[thread()];
    if (BARRIER) block_barrier();
    args.out[thread()] = shared.values[THREADS - 1 - thread()];
}

// Adds two runs of 512 values that were copied in two groups. A wait for one group leaves the second in flight.
template <int PENDING> DEVICE void add_staged(const PlantedArgs& args) {
    Staged& shared = shared_memory<Staged>();
    for (u32 run = 0; run < 2; ++run) {
        copy_async(&shared.values[run][4 * thread()], args.x + 4 * (run * THREADS + thread()));
        copy_async_commit();
    }
    copy_async_wait<PENDING>();
    block_barrier();
    for (u32 i = thread(); i < 4 * THREADS; i += THREADS) args.out[i] = shared.values[0][i] + shared.values[1][i];
}

}

KERNEL(planted_reverse, THREADS, Exchange, PlantedArgs) { reverse<true>(args); }
KERNEL(planted_reverse_without_barrier, THREADS, Exchange, PlantedArgs) { reverse<false>(args); }
KERNEL(planted_add, THREADS, Staged, PlantedArgs) { add_staged<0>(args); }
KERNEL(planted_add_with_weak_wait, THREADS, Staged, PlantedArgs) { add_staged<1>(args); }

// Half of a warp exits before an operation of the whole warp.
KERNEL(planted_absent_lanes, THREADS, NoShared, PlantedArgs) {
    if (lane() >= WARP / 2) return;
    args.out[thread()] = warp_sum(args.x[thread()]);
}

// Reads shared memory that nobody writes.
KERNEL(planted_unwritten, THREADS, Exchange, PlantedArgs) {
    args.out[thread()] = shared_memory<Exchange>().values[thread()];
}
