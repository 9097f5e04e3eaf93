// SPDX-License-Identifier: MPL-2.0
//
// Linear layers on every GPU.

#include "linear.cuh"
#include "gemm_mma.cuh"

namespace {

template <class T, class Tile, bool ALIGNED> DEVICE void linear(const LinearArgs& args) {
    gemm<T, Tile, ALIGNED>(Linear<T>{args}, 0);
}

template <class T> DEVICE void linear_wide(const LinearArgs& args) { linear<T, T128x128, true>(args); }
template <class T> DEVICE void linear_middle(const LinearArgs& args) { linear<T, T128x64, true>(args); }
template <class T> DEVICE void linear_narrow(const LinearArgs& args) { linear<T, T256x16, true>(args); }
template <class T> DEVICE void linear_odd(const LinearArgs& args) { linear<T, T128x64, false>(args); }

}

KERNELS_RESIDENT(linear_wide, THREADS, BLOCKS, T128x128Shared, LinearArgs)
KERNELS_RESIDENT(linear_middle, THREADS, BLOCKS, T128x64Shared, LinearArgs)
KERNELS_RESIDENT(linear_narrow, THREADS, BLOCKS, T256x16Shared, LinearArgs)
KERNELS_RESIDENT(linear_odd, THREADS, BLOCKS, T128x64Shared, LinearArgs)
