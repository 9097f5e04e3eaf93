// SPDX-License-Identifier: MPL-2.0
//
// The primitives of hopper.cuh on a CPU, as calls of async.h.
#pragma once

// The address in the block's shared memory, which begins at 0.
DEVICE u32 shared_address(const void* p) { return emulator::block()->shared_address(p); }

DEVICE void barrier_init(Barrier& barrier, u32 arrivals) { emulator::block()->async.init(barrier.state, arrivals); }
DEVICE void barrier_init_fence() { emulator::block()->async.init_fence(); }
DEVICE void barrier_arrive(Barrier& barrier) { emulator::block()->async.arrive(barrier.state, 0); }
DEVICE void barrier_arrive_expect(Barrier& barrier, u32 bytes) {
    emulator::block()->async.arrive(barrier.state, bytes);
}
DEVICE void barrier_wait(Barrier& barrier, u32 parity) { emulator::block()->async.wait(barrier.state, parity); }

DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, Barrier& barrier) {
    emulator::block()->async.copy(shared, global, bytes, barrier.state);
}
DEVICE void async_proxy_fence() { emulator::block()->proxy_fence(); }

template <class T> DEVICE void store_shared(T* to, const Vector<T, 8>& values) {
    emulator::block()->store(to, &values);
}

template <u32 N> DEVICE void registers_decrease() {
    static_assert(N >= 24 && N <= 256 && N % 8 == 0, "what setmaxnreg takes");
    warp_barrier();
}
template <u32 N> DEVICE void registers_increase() { registers_decrease<N>(); }

DEVICE void named_barrier(u32 number, u32 threads) { emulator::block()->named_barrier(number, threads, true); }
DEVICE void named_barrier_arrive(u32 number, u32 threads) { emulator::block()->named_barrier(number, threads, false); }

template <class... Values> DEVICE void warpgroup_fence(Values&...) {
    u32 nothing = 0;
    emulator::meet<u32>(nothing, [](u32**) { emulator::block()->async.fence(); });
}
DEVICE void warpgroup_commit() {
    u32 nothing = 0;
    emulator::meet<u32>(nothing, [](u32**) { emulator::block()->async.commit(); });
}
template <int N, class... Values> DEVICE void warpgroup_wait(Values&...) {
    u32 nothing = 0;
    emulator::meet<u32>(nothing, [](u32**) { emulator::block()->async.wait_mmas(N); });
}

namespace emulator {
template <class T> constexpr bool is_half = std::is_same<T, f16>::value;

inline void wgmma(LaneMma& own) {
    meet<LaneMma>(own, [](LaneMma** lanes) { block()->async.wgmma(lanes); });
}
}

template <class T, bool MN_MAJOR = false, u32 ACC>
inline void wgmma(float (&acc)[ACC], u64 a, u64 b, bool keep = true) {
    emulator::LaneMma own{acc, nullptr, a, b, 2 * ACC, MN_MAJOR, emulator::is_half<T>, keep};
    emulator::wgmma(own);
}
template <class T, bool MN_MAJOR = false, u32 ACC>
inline void wgmma(float (&acc)[ACC], const u32 (&a)[4], u64 b, bool keep = true) {
    emulator::LaneMma own{acc, a, 0, b, 2 * ACC, MN_MAJOR, emulator::is_half<T>, keep};
    emulator::wgmma(own);
}
