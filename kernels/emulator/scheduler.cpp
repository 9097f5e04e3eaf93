// SPDX-License-Identifier: MPL-2.0

#include "scheduler.h"

#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace emulator {

namespace {

constexpr size_t STACK_BYTES = 64 << 10;
constexpr uint32_t MAX_THREADS = 1024;
constexpr int POISON = 0xff;  // NaN in every floating-point type.

std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

}

// Saves the callee-saved registers and the stack pointer, and resumes where `to` was saved.
extern "C" void flashvsr_emulator_switch(void** from, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.globl flashvsr_emulator_switch
flashvsr_emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.section .note.GNU-stack,"",@progbits
.text
)");
// At a function's entry the stack is 8 bytes off its alignment, because a call has pushed the return address.
constexpr size_t SAVED_WORDS = 7, RETURN_WORD = 6, WORDS_ABOVE = 1;
#elif defined(__aarch64__)
asm(R"(
.text
.globl flashvsr_emulator_switch
flashvsr_emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
)");
constexpr size_t SAVED_WORDS = 20, RETURN_WORD = 11, WORDS_ABOVE = 2;
#else
#error "the emulator knows x86-64 and AArch64"
#endif

Registration::Registration(Kernel kernel) { kernels().push_back(kernel); }

Block* block() {
    static thread_local Block block;
    return &block;
}

Block::Block() : async(*this) {
    stacks_ = static_cast<uint8_t*>(mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    shared = static_cast<uint8_t*>(std::aligned_alloc(1024, SHARED_BYTES));
    if (stacks_ == MAP_FAILED || !shared) std::abort();
}

Block::~Block() {
    munmap(stacks_, STACK_BYTES * MAX_THREADS);
    std::free(shared);
}

const char* Block::run(const Kernel& kernel, const void* args, uint64_t seed) {
    kernel_ = &kernel;
    args_ = args;
    seed_ = seed;
    fault_ = nullptr;
    at_barrier_ = 0;
    alive_ = kernel.threads;
    states_.assign(kernel.threads, State::Ready);
    fibers_.resize(kernel.threads);
    warps_.assign((kernel.threads + 31) / 32, {});
    std::memset(shared, POISON, kernel.shared_bytes);
    std::memset(named_, 0, sizeof named_);
    async.start(uint32_t(warps_.size()), kernel.shared_bytes);
    for (uint32_t i = 0; i < kernel.threads; ++i) {
        fibers_[i].copies.clear();
        fibers_[i].written.clear();
        fibers_[i].group = 0;
        // A frame from which flashvsr_emulator_switch can return: zeros, and the entry as the return address.
        void** frame = reinterpret_cast<void**>(stacks_ + STACK_BYTES * (i + 1)) - WORDS_ABOVE - SAVED_WORDS;
        std::memset(frame, 0, SAVED_WORDS * sizeof(void*));
        frame[RETURN_WORD] = reinterpret_cast<void*>(&Block::enter);
        fibers_[i].stack_pointer = frame;
    }
    running = next_ready();
    flashvsr_emulator_switch(&host_stack_pointer_, fibers_[running].stack_pointer);
    return fault_ ? fault_ : async.finish();
}

void Block::fail(const char* fault) {
    fault_ = fault;
    flashvsr_emulator_switch(&fibers_[running].stack_pointer, host_stack_pointer_);
    std::abort();
}

void Block::enter() {
    Block* own = block();
    own->kernel_->body(own->args_);
    own->states_[own->running] = State::Finished;
    --own->alive_;
    own->release_barrier();
    own->switch_away();
}

// Opens the barrier once all threads have arrived; a thread that has exited counts as arrived, as on a GPU.
void Block::release_barrier() {
    if (at_barrier_ < alive_ || alive_ == 0) return;
    at_barrier_ = 0;
    for (State& state : states_)
        if (state == State::AtBarrier) state = State::Ready;
}

// Finds a thread that is ready, or returns the number of threads.
uint32_t Block::next_ready() {
    const uint32_t count = uint32_t(states_.size());
    uint32_t first = running < count ? running : 0;
    if (seed_) {
        seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
        first = uint32_t(seed_ >> 33) % count;
    }
    auto search = [&](uint32_t from, uint32_t to) {
        const void* found = std::memchr(&states_[from], int(State::Ready), to - from);
        return found ? uint32_t(static_cast<const State*>(found) - &states_[0]) : count;
    };
    const uint32_t behind = search(first, count);
    return behind < count ? behind : search(0, first);
}

void Block::switch_away() {
    const uint32_t from = running, next = next_ready();
    if (next == from) return;
    if (next == states_.size()) {
        if (alive_ > 0) fault_ = "threads wait for what never comes";
        flashvsr_emulator_switch(&fibers_[from].stack_pointer, host_stack_pointer_);
        return;
    }
    running = next;
    flashvsr_emulator_switch(&fibers_[from].stack_pointer, fibers_[next].stack_pointer);
}

void Block::barrier() {
    states_[running] = State::AtBarrier;
    ++at_barrier_;
    release_barrier();
    switch_away();
}

void Block::sleep(const void* awaited) {
    states_[running] = State::Asleep;
    fibers_[running].awaited = awaited;
    switch_away();
}

void Block::wake(const void* awaited) {
    for (size_t i = 0; i < states_.size(); ++i)
        if (states_[i] == State::Asleep && fibers_[i].awaited == awaited) states_[i] = State::Ready;
}

bool Block::is_awaited(const void* awaited) const {
    for (size_t i = 0; i < states_.size(); ++i)
        if (states_[i] == State::Asleep && fibers_[i].awaited == awaited) return true;
    return false;
}

void Block::named_barrier(uint32_t number, uint32_t threads, bool wait) {
    if (number == 0 || number >= 16) fail("a named barrier of another number than 1 to 15");
    NamedBarrier& own = named_[number];
    if (threads % 32 != 0 || (own.threads != 0 && own.threads != threads)) {
        fail("a named barrier for no whole warps, or for another number of threads than others have given it");
    }
    own.threads = threads;
    if (++own.arrived == threads) {
        own = {};
        wake(&own);
    } else if (wait) {
        sleep(&own);
    }
}

void Block::meet(void* own, void (*operation)(void**)) {
    Warp& warp = warps_[running / 32];
    warp.brought[running % 32] = own;
    if (++warp.arrived < 32) {
        states_[running] = State::AtMeeting;
        switch_away();
        return;
    }
    warp.arrived = 0;
    operation(warp.brought);
    const uint32_t first = running & ~31u;
    for (uint32_t i = first; i < first + 32; ++i) states_[i] = State::Ready;
}

void Block::copy(void* to, const void* from) {
    std::memset(to, POISON, 16);
    async.hide(shared_address(to));
    fibers_[running].copies.push_back({to, from, fibers_[running].group});
}

void Block::commit() { ++fibers_[running].group; }

void Block::wait(uint32_t groups) {
    Fiber& fiber = fibers_[running];
    size_t landed = 0;
    for (; landed < fiber.copies.size() && fiber.copies[landed].group + groups < fiber.group; ++landed) {
        const PendingCopy& copy = fiber.copies[landed];
        if (copy.global) std::memcpy(copy.shared, copy.global, 16);
        else std::memset(copy.shared, 0, 16);
        fiber.written.push_back(shared_address(copy.shared));
    }
    fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + long(landed));
}

uint32_t Block::shared_address(const void* p) {
    const size_t address = size_t(static_cast<const uint8_t*>(p) - shared);
    if (address >= kernel_->shared_bytes) fail("an address that is not in the block's shared memory");
    return uint32_t(address);
}

void Block::store(void* to, const void* from) {
    std::memcpy(to, from, 16);
    async.hide(shared_address(to));
    fibers_[running].written.push_back(shared_address(to));
}

void Block::proxy_fence() {
    for (uint32_t address : fibers_[running].written) async.show(address);
    fibers_[running].written.clear();
}

// --- for the driver
// ---------------------------------------------------------------------------------------------------

extern "C" const Kernel* flashvsr_emulator_find(const char* name) {
    for (const Kernel& kernel : kernels())
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    return nullptr;
}

extern "C" const char* flashvsr_emulator_run(const Kernel* kernel, const uint32_t* index, const void* args,
                                             uint64_t seed) {
    std::memcpy(block()->index, index, sizeof block()->index);
    return block()->run(*kernel, args, seed);
}

}
