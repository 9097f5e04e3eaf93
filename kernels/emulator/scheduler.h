// SPDX-License-Identifier: MPL-2.0
//
// A block of a kernel as fibers on one thread of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "async.h"

namespace emulator {

// Shared memory of a block, at most: what Hopper has, 1 KiB of which is the driver's.
constexpr size_t SHARED_BYTES = 228 << 10;

// A kernel that KERNEL defines.
struct Kernel {
    const char* name;
    uint32_t threads;
    size_t shared_bytes, args_bytes;
    void (*body)(const void* args);
};

// Makes a kernel known to flashvsr_emulator_find.
struct Registration {
    explicit Registration(Kernel kernel);
};

enum class State : uint8_t { Ready, AtBarrier, AtMeeting, Asleep, Finished };

struct PendingCopy {
    void* shared;
    const void* global;
    uint32_t group;
};

struct Fiber {
    void* stack_pointer;
    uint32_t group;
    std::vector<PendingCopy> copies;
    // Addresses in shared memory that the thread has written since its last async_proxy_fence.
    std::vector<uint32_t> written;
    // The address that ends its sleep, see Block::wake.
    const void* awaited;
};

struct Warp {
    void* brought[32];
    uint32_t arrived;
};

// A barrier of some warps; `threads` is 0 where nobody has arrived.
struct NamedBarrier {
    uint32_t arrived, threads;
};

// A running block. Its threads run in the order of their numbers, or in one drawn from `seed` if that is not 0.
class Block {
public:
    uint32_t running;
    uint32_t index[3];
    uint8_t* shared;
    Async async;

    Block();
    ~Block();
    Block(const Block&) = delete;

    // Returns what the kernel did wrong, or null.
    const char* run(const Kernel& kernel, const void* args, uint64_t seed);

    // Ends the run; `fault` says what the kernel did wrong.
    [[noreturn]] void fail(const char* fault);

    // Suspends the running thread until a `wake` of the same address.
    void sleep(const void* awaited);
    void wake(const void* awaited);
    bool is_awaited(const void* awaited) const;

    void barrier();
    void named_barrier(uint32_t number, uint32_t threads, bool wait);
    void meet(void* own, void (*operation)(void**));
    void copy(void* shared, const void* global);
    void commit();
    void wait(uint32_t groups);

    // The offset of `p` from the beginning of the block's shared memory.
    uint32_t shared_address(const void* p);
    // Stores 16 bytes, for MMAs to read after proxy_fence.
    void store(void* to, const void* from);
    void proxy_fence();

private:
    uint8_t* stacks_;
    void* host_stack_pointer_;
    const Kernel* kernel_;
    const void* args_;
    uint64_t seed_;
    const char* fault_;
    uint32_t at_barrier_, alive_;
    NamedBarrier named_[16];
    std::vector<State> states_;
    std::vector<Fiber> fibers_;
    std::vector<Warp> warps_;

    static void enter();
    void release_barrier();
    uint32_t next_ready();
    void switch_away();
};

// The block that this thread of the host runs.
Block* block();

}
