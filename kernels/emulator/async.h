// SPDX-License-Identifier: MPL-2.0
//
// The asynchronous units of a Hopper GPU: bulk copies, the barriers that count them, and MMAs of warpgroups (wgmma).
// Each acts as late as it may: a bulk copy lands when somebody first finds the phase of its barrier completed, an MMA
// reads shared memory and writes its accumulators at the wait for it. Until then what they write is NaN. They see
// shared memory through a copy of it, the view, into which the threads' own writes come with async_proxy_fence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

class Block;

// The operands that a lane gives to an MMA: `a` are its fragments, or null if A is in shared memory.
struct LaneMma {
    float* acc;
    const uint32_t* a;
    uint64_t a_descriptor, b_descriptor;
    uint32_t columns;
    bool mn_major, half, keep;
};

class Async {
public:
    explicit Async(Block& block);
    ~Async();
    Async(const Async&) = delete;

    void start(uint32_t warps, size_t shared_bytes);
    // Returns what is wrong with a block that ends here, or null.
    const char* finish() const;

    // Make 16 bytes of shared memory in the view NaN; make them what the threads see.
    void hide(uint32_t address);
    void show(uint32_t address);

    void init(unsigned long long& state, uint32_t arrivals);
    void init_fence();
    void arrive(unsigned long long& state, uint32_t bytes);
    void copy(void* to, const void* from, uint32_t bytes, unsigned long long& state);
    void wait(unsigned long long& state, uint32_t parity);

    // The operations of the running warp.
    void fence();
    void wgmma(LaneMma** lanes);
    void commit();
    void wait_mmas(uint32_t groups);

private:
    struct BulkCopy {
        void* to;
        const void* from;
        uint32_t bytes;
    };
    struct BarrierState {
        uint32_t arrivals, pending, phase;
        // Bytes that this phase expects, and bytes of its copies.
        uint64_t expected, issued;
        bool fenced;
        std::vector<BulkCopy> copies;
    };
    // Accumulators of a warp, in use by MMAs in flight.
    struct Accumulators {
        float* registers[32];
        uint32_t count;
        uint32_t mmas;
        std::vector<float> values;
    };
    struct WarpMma {
        LaneMma lanes[32];
        uint32_t group;
    };
    struct Warp {
        bool fenced;
        uint32_t group, issued;
        std::vector<WarpMma> mmas;
        std::vector<Accumulators> accumulators;
    };

    Block& block_;
    uint8_t* view_;
    size_t shared_bytes_;
    std::vector<BarrierState> barriers_;
    std::vector<Warp> warps_;

    BarrierState& find(unsigned long long& state);
    bool is_over(const BarrierState& barrier) const;
    void end_phase(BarrierState& barrier, unsigned long long& state);
    void settle(BarrierState& barrier, unsigned long long& state);

    Warp& warp();
    void read(float (&values)[8], uint64_t descriptor, bool mn_major, bool half, uint32_t line, uint32_t k);
    void compute(const WarpMma& mma, Accumulators& acc);
};

}
