// SPDX-License-Identifier: MPL-2.0
//
// A block of a kernel as fibers on one thread of the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace emulator {

// A kernel as KERNEL defines it.
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

enum class State : uint8_t { Ready, AtBarrier, AtMeeting, Finished };

struct PendingCopy {
    void* shared;
    const void* global;
    uint32_t group;
};

struct Fiber {
    void* stack_pointer;
    uint32_t group;
    std::vector<PendingCopy> copies;
};

struct Warp {
    void* brought[32];
    uint32_t arrived;
};

// A block that runs. Its threads go on in the order of their numbers, or in one drawn from `seed` if that is not 0.
class Block {
public:
    uint32_t running;
    uint32_t index[3];
    uint8_t* shared;

    Block();
    ~Block();
    Block(const Block&) = delete;

    // Returns false if threads wait for others that have ended.
    bool run(const Kernel& kernel, const void* args, uint64_t seed);

    void barrier();
    void meet(void* own, void (*operation)(void**));
    void copy(void* shared, const void* global);
    void commit();
    void wait(uint32_t groups);

private:
    uint8_t* stacks_;
    void* host_stack_pointer_;
    const Kernel* kernel_;
    const void* args_;
    uint64_t seed_;
    bool stuck_;
    uint32_t at_barrier_, alive_;
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
