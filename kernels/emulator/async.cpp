// SPDX-License-Identifier: MPL-2.0

#include "../prims.cuh"

#include <algorithm>
#include <cstdlib>

namespace emulator {

namespace {

constexpr int POISON = 0xff;
// The upper bits of a barrier's state; the lower 32 are its number.
constexpr u64 BARRIER = 0xba221e0000000000;

bool is_poison(const float* values, u32 count) {
    const u8* bytes = reinterpret_cast<const u8*>(values);
    return std::all_of(bytes, bytes + 4 * count, [](u8 byte) { return byte == POISON; });
}

}

Async::Async(Block& block) : block_(block), view_(static_cast<u8*>(std::aligned_alloc(1024, SHARED_BYTES))) {
    if (!view_) std::abort();
}

Async::~Async() { std::free(view_); }

void Async::start(u32 warps, size_t shared_bytes) {
    shared_bytes_ = shared_bytes;
    std::memset(view_, POISON, shared_bytes);
    barriers_.clear();
    warps_.assign(warps, {});
}

const char* Async::finish() const {
    for (const BarrierState& barrier : barriers_)
        if (!barrier.copies.empty()) return "a bulk copy that nobody waits for";
    for (size_t w = 0; w < warps_.size(); ++w) {
        if (!warps_[w].mmas.empty()) return "an MMA that nobody waits for";
        if (warps_[w].issued != warps_[w - w % 4].issued) return "an MMA of some warps of a warpgroup";
    }
    return nullptr;
}

void Async::hide(u32 address) { std::memset(view_ + address, POISON, 16); }
void Async::show(u32 address) { std::memcpy(view_ + address, block_.shared + address, 16); }

// --- barriers and bulk copies
// -----------------------------------------------------------------------------------------

void Async::init(unsigned long long& state, u32 arrivals) {
    block_.shared_address(&state);
    if (arrivals == 0) block_.fail("a barrier in shared memory that waits for nobody");
    state = BARRIER | barriers_.size();
    barriers_.push_back({arrivals, arrivals, 0, 0, 0, false, {}});
}

void Async::init_fence() {
    for (BarrierState& barrier : barriers_) barrier.fenced = true;
}

Async::BarrierState& Async::find(unsigned long long& state) {
    const u64 number = state & 0xffffffff;
    if (state != (BARRIER | number) || number >= barriers_.size()) {
        block_.fail("a barrier in shared memory that is not initialised");
    }
    return barriers_[number];
}

bool Async::is_over(const BarrierState& barrier) const {
    return barrier.pending == 0 && barrier.issued == barrier.expected;
}

void Async::end_phase(BarrierState& barrier, unsigned long long& state) {
    for (const BulkCopy& copy : barrier.copies) {
        std::memcpy(copy.to, copy.from, copy.bytes);
        std::memcpy(view_ + block_.shared_address(copy.to), copy.from, copy.bytes);
    }
    barrier.copies.clear();
    barrier.pending = barrier.arrivals;
    barrier.expected = barrier.issued = 0;
    ++barrier.phase;
    block_.wake(&state);
}

// Ends a completed phase if somebody waits for it. Otherwise it ends as late as possible, at the next operation.
void Async::settle(BarrierState& barrier, unsigned long long& state) {
    if (barrier.pending == 0 && barrier.issued > barrier.expected) {
        block_.fail("more bytes copied than a barrier expects");
    }
    if (is_over(barrier) && block_.is_awaited(&state)) end_phase(barrier, state);
}

void Async::arrive(unsigned long long& state, u32 bytes) {
    BarrierState& barrier = find(state);
    if (is_over(barrier)) end_phase(barrier, state);
    if (barrier.pending == 0) block_.fail("more arrivals at a barrier in shared memory than it waits for");
    --barrier.pending;
    barrier.expected += bytes;
    settle(barrier, state);
}

void Async::copy(void* to, const void* from, u32 bytes, unsigned long long& state) {
    BarrierState& barrier = find(state);
    if (!barrier.fenced) block_.fail("a bulk copy to a barrier that was not fenced after it was initialised");
    const u32 address = block_.shared_address(to);
    if ((address | u64(from) | bytes) % 16 != 0 || bytes == 0 || address + bytes > shared_bytes_) {
        block_.fail("a bulk copy that is no multiple of 16 bytes or leaves shared memory");
    }
    if (is_over(barrier)) end_phase(barrier, state);
    std::memset(to, POISON, bytes);
    std::memset(view_ + address, POISON, bytes);
    barrier.copies.push_back({to, from, bytes});
    barrier.issued += bytes;
    settle(barrier, state);
}

void Async::wait(unsigned long long& state, u32 parity) {
    for (;;) {
        BarrierState& barrier = find(state);
        if (barrier.phase % 2 == parity && is_over(barrier)) end_phase(barrier, state);
        if (barrier.phase % 2 != parity) return;
        block_.sleep(&state);
    }
}

// --- wgmma
// ------------------------------------------------------------------------------------------------------------

Async::Warp& Async::warp() { return warps_[block_.running / 32]; }

void Async::fence() { warp().fenced = true; }

void Async::commit() {
    warp().fenced = false;
    ++warp().group;
}

void Async::wgmma(LaneMma** lanes) {
    Warp& own = warp();
    ++own.issued;
    if (!own.fenced) block_.fail("an MMA whose group has no fence before it");
    WarpMma mma{{}, own.group};
    for (u32 l = 0; l < 32; ++l) {
        const LaneMma &lane = *lanes[l], &first = *lanes[0];
        if (lane.a_descriptor != first.a_descriptor || lane.b_descriptor != first.b_descriptor ||
            lane.keep != first.keep) {
            block_.fail("lanes of a warp that multiply different matrices");
        }
        mma.lanes[l] = lane;
    }
    auto acc = std::find_if(own.accumulators.begin(), own.accumulators.end(),
                            [&](const Accumulators& acc) { return acc.registers[0] == lanes[0]->acc; });
    if (acc == own.accumulators.end()) {
        const u32 count = lanes[0]->columns / 2;
        Accumulators taken{{}, count, 0, {}};
        for (u32 l = 0; l < 32; ++l) {
            taken.registers[l] = lanes[l]->acc;
            taken.values.insert(taken.values.end(), lanes[l]->acc, lanes[l]->acc + count);
            std::memset(lanes[l]->acc, POISON, 4 * count);
        }
        acc = own.accumulators.insert(own.accumulators.end(), std::move(taken));
    }
    ++acc->mmas;
    own.mmas.push_back(mma);
}

void Async::wait_mmas(u32 groups) {
    Warp& own = warp();
    size_t done = 0;
    for (; done < own.mmas.size() && own.mmas[done].group + groups < own.group; ++done) {
        const WarpMma& mma = own.mmas[done];
        auto acc = std::find_if(own.accumulators.begin(), own.accumulators.end(),
                                [&](const Accumulators& acc) { return acc.registers[0] == mma.lanes[0].acc; });
        compute(mma, *acc);
        if (--acc->mmas > 0) continue;
        for (u32 l = 0; l < 32; ++l) {
            float* registers = acc->registers[l];
            if (!is_poison(registers, acc->count))
                block_.fail("accumulators that are written while an MMA computes them");
            std::memcpy(registers, &acc->values[l * acc->count], 4 * acc->count);
        }
        own.accumulators.erase(acc);
    }
    own.mmas.erase(own.mmas.begin(), own.mmas.begin() + long(done));
}

// Reads eight values of a matrix in shared memory by its descriptor: those of one row of A or column of B (`line`) from
// k on, or with mn_major those of one k from such a line on. See the PTX manual, "Matrix Descriptor Format" and
// "Strides" of wgmma; `width` is that of the swizzling in 16-byte units.
void Async::read(float (&values)[8], uint64_t descriptor, bool mn_major, bool half, u32 line, u32 k) {
    const u32 start = u32(descriptor & 0x3fff) << 4, leading = u32(descriptor >> 16 & 0x3fff) << 4;
    const u32 stride = u32(descriptor >> 32 & 0x3fff) << 4, mode = u32(descriptor >> 62);
    const u32 width = mode == 0 ? 1 : 16 >> mode;
    if (descriptor & 0x3fffc000c000c000 || (mode != 0 && start & (0x380 & (128 * width - 1)))) {
        block_.fail("a matrix descriptor with bits that are not 0, or that begins within its swizzling pattern");
    }
    const u32 row = 16 * width;
    u32 at = start;
    if (mn_major && mode == 0) at += line / 8 * stride + k % 8 * row + k / 8 * leading;
    else if (mn_major) at += line % (8 * width) * 2 + line / (8 * width) * leading + k % 8 * row + k / 8 * stride;
    else at += line % 8 * row + line / 8 * stride + k / 8 * (mode == 0 ? leading : 16);
    at ^= (at >> 7 & (width - 1)) << 4;
    if (at + 16 > shared_bytes_) block_.fail("a matrix beyond the block's shared memory");
    u16 bits[8];
    std::memcpy(bits, view_ + at, sizeof bits);
    for (u32 i = 0; i < 8; ++i) values[i] = half ? to_float(f16{bits[i]}) : to_float(bf16{bits[i]});
}

// Computes the 16 rows of a warp. Fragments are those of mma_m16n8k16.
void Async::compute(const WarpMma& mma, Accumulators& acc) {
    constexpr u32 MAX_COLUMNS = 256;
    static thread_local float a[16][16], b[16][MAX_COLUMNS], out[16][MAX_COLUMNS];
    const LaneMma& first = mma.lanes[0];
    const u32 columns = first.columns, row = block_.running / 32 % 4 * 16;
    float eight[8];
    for (u32 k = 0; k < 16; ++k)
        for (u32 j = 0; j < columns && first.mn_major; j += 8) {
            read(eight, first.b_descriptor, true, first.half, j, k);
            for (u32 i = 0; i < 8; ++i) b[k][j + i] = eight[i];
        }
    for (u32 k = 0; k < 16; k += 8) {
        for (u32 j = 0; j < columns && !first.mn_major; ++j) {
            read(eight, first.b_descriptor, false, first.half, j, k);
            for (u32 i = 0; i < 8; ++i) b[k + i][j] = eight[i];
        }
        for (u32 i = 0; i < 16 && !first.a; ++i) {
            read(eight, first.a_descriptor, false, first.half, row + i, k);
            for (u32 j = 0; j < 8; ++j) a[i][k + j] = eight[j];
        }
    }
    for (u32 l = 0; l < 32 && first.a; ++l)
        for (u32 i = 0; i < 8; ++i) {
            const u16 bits = u16(mma.lanes[l].a[i / 2] >> i % 2 * 16);
            a[l / 4 + i / 2 % 2 * 8][l % 4 * 2 + i % 2 + i / 4 * 8] =
                first.half ? to_float(f16{bits}) : to_float(bf16{bits});
        }
    auto each = [&](auto visit) {
        for (u32 l = 0; l < 32; ++l)
            for (u32 i = 0; i < acc.count; ++i)
                visit(out[l / 4 + i / 2 % 2 * 8][i / 4 * 8 + l % 4 * 2 + i % 2], acc.values[l * acc.count + i]);
    };
    each([&](float& sum, const float& value) { sum = first.keep ? value : 0.0f; });
    for (u32 i = 0; i < 16; ++i)
        for (u32 k = 0; k < 16; ++k)
            for (u32 j = 0; j < columns; ++j) out[i][j] += a[i][k] * b[k][j];
    each([&](const float& sum, float& value) { value = sum; });
}

}
