// SPDX-License-Identifier: MPL-2.0
//
// The primitives of hopper.cuh on a GPU.
#pragma once

// Initialises a barrier. One thread does this, before a block_barrier().
DEVICE void barrier_init(Barrier& barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(&barrier)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to others and to bulk copies. The same thread does this after its last
// barrier_init.
DEVICE void barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async;" ::: "memory");
}
DEVICE void barrier_arrive(Barrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(&barrier)) : "memory");
}
DEVICE void barrier_arrive_expect(Barrier& barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(&barrier)), "r"(bytes) : "memory");
}
DEVICE void barrier_wait(Barrier& barrier, u32 parity) {
    u32 over;
    do {
        asm volatile("{\n\t.reg .pred over;\n\t"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, over;\n\t}"
                     : "=r"(over) : "r"(shared_address(&barrier)), "r"(parity) : "memory");
    } while (!over);
}

// Starts a bulk copy; addresses and bytes are multiples of 16.
DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, Barrier& barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(&barrier)) : "memory");
}

DEVICE void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <class T> DEVICE void store_shared(T* to, const Vector<T, 8>& values) {
    *reinterpret_cast<Vector<T, 8>*>(to) = values;
}

template <u32 N> DEVICE void registers_decrease() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(N)); }
template <u32 N> DEVICE void registers_increase() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(N)); }

DEVICE void named_barrier(u32 number, u32 threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}
DEVICE void named_barrier_arrive(u32 number, u32 threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

// Keeps the compiler from moving uses of `value` across this point: it does not know that registers change between an
// MMA and the wait for it.
DEVICE void pin(float& value) { asm volatile("" : "+f"(value) :: "memory"); }
DEVICE void pin(u32& value) { asm volatile("" : "+r"(value) :: "memory"); }
template <class A, u32 N> DEVICE void pin(A (&values)[N]) {
#pragma unroll
    for (u32 i = 0; i < N; ++i) pin(values[i]);
}

// Begins a group of MMAs: `values` are the accumulators and the fragments of A that they use.
template <class... Values> DEVICE void warpgroup_fence(Values&... values) {
    (pin(values), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most the N latest groups are in flight. `values` are what the completed MMAs have used.
template <int N, class... Values> DEVICE void warpgroup_wait(Values&... values) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
    (pin(values), ...);
}

// wgmma.mma_async for N columns: shared(acc, a, b, keep) with A in shared memory, registers(...) with A
// in registers. Without `keep` the accumulators start at 0.
template <class T, u32 N> struct Wgmma;

// Lists of the accumulators' numbers, for the instruction's text and for its operands.
#define TEN(ITEM, tens)                                                                                 \
    ITEM(tens##0) ITEM(tens##1) ITEM(tens##2) ITEM(tens##3) ITEM(tens##4)                               \
    ITEM(tens##5) ITEM(tens##6) ITEM(tens##7) ITEM(tens##8) ITEM(tens##9)
#define ACC_32(ITEM, LAST) TEN(ITEM, ) TEN(ITEM, 1) TEN(ITEM, 2) ITEM(30) LAST(31)
#define ACC_64(ITEM, LAST)                                                                             \
    TEN(ITEM, ) TEN(ITEM, 1) TEN(ITEM, 2) TEN(ITEM, 3) TEN(ITEM, 4) TEN(ITEM, 5)                        \
    ITEM(60) ITEM(61) ITEM(62) LAST(63)
#define ACC_128(ITEM, LAST)                                                                            \
    TEN(ITEM, ) TEN(ITEM, 1) TEN(ITEM, 2) TEN(ITEM, 3) TEN(ITEM, 4) TEN(ITEM, 5)                        \
    TEN(ITEM, 6) TEN(ITEM, 7) TEN(ITEM, 8) TEN(ITEM, 9) TEN(ITEM, 10) TEN(ITEM, 11)                     \
    ITEM(120) ITEM(121) ITEM(122) ITEM(123) ITEM(124) ITEM(125) ITEM(126) LAST(127)
#define TEXT(i) "%" #i ", "
#define LAST_TEXT(i) "%" #i
#define OPERAND(i) "+f"(acc[i]),
#define LAST_OPERAND(i) "+f"(acc[i])

// Defines Wgmma<T, N>: `type` is T's name in PTX, n0 to n6 are the numbers of the operands after the accumulators.
#define WGMMA(T, type, N, ACC, n0, n1, n2, n3, n4, n5, n6)                                 \
    template <> struct Wgmma<T, N> {                                                         \
        template <bool MN_MAJOR> static DEVICE void shared(float (&acc)[N / 2], u64 a, u64 b, bool keep) { \
            asm volatile("{\n\t.reg .pred keep;\n\tsetp.ne.b32 keep, %" #n2 ", 0;\n\t"                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"           \
                         ACC(TEXT, LAST_TEXT) "}, %" #n0 ", %" #n1 ", keep, 1, 1, 0, %" #n3 ";\n\t}"   \
                         : ACC(OPERAND, LAST_OPERAND)                                                  \
                         : "l"(a), "l"(b), "r"(u32(keep)), "n"(MN_MAJOR ? 1 : 0));               \
        }                                                                                               \
        template <bool MN_MAJOR>                                                                        \
        static DEVICE void registers(float (&acc)[N / 2], const u32 (&a)[4], u64 b, bool keep) { \
            asm volatile("{\n\t.reg .pred keep;\n\tsetp.ne.b32 keep, %" #n5 ", 0;\n\t"                  \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." type "." type " {"           \
                         ACC(TEXT, LAST_TEXT) "}, {%" #n0 ", %" #n1 ", %" #n2 ", %" #n3 "}, %" #n4     \
                         ", keep, 1, 1, %" #n6 ";\n\t}"                                                 \
                         : ACC(OPERAND, LAST_OPERAND)                                                  \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),          \
                           "r"(u32(keep)), "n"(MN_MAJOR ? 1 : 0));                                      \
        }                                                                                               \
    };
#define WGMMAS(T, type)                                                                     \
    WGMMA(T, type, 64, ACC_32, 32, 33, 34, 35, 36, 37, 38)                                 \
    WGMMA(T, type, 128, ACC_64, 64, 65, 66, 67, 68, 69, 70)                                \
    WGMMA(T, type, 256, ACC_128, 128, 129, 130, 131, 132, 133, 134)
WGMMAS(bf16, "bf16")
WGMMAS(f16, "f16")

#undef TEN
#undef ACC_32
#undef ACC_64
#undef ACC_128
#undef TEXT
#undef LAST_TEXT
#undef OPERAND
#undef LAST_OPERAND
#undef WGMMA
#undef WGMMAS

// acc += a * b with A and B from shared memory, by descriptors: k_major, or for B with MN_MAJOR mn_major.
template <class T, bool MN_MAJOR = false, u32 ACC>
DEVICE void wgmma(float (&acc)[ACC], u64 a, u64 b, bool keep = true) {
    Wgmma<T, 2 * ACC>::template shared<MN_MAJOR>(acc, a, b, keep);
}
// acc += a * b with A from registers, which must not change until the wait.
template <class T, bool MN_MAJOR = false, u32 ACC>
DEVICE void wgmma(float (&acc)[ACC], const u32 (&a)[4], u64 b, bool keep = true) {
    Wgmma<T, 2 * ACC>::template registers<MN_MAJOR>(acc, a, b, keep);
}
