// SPDX-License-Identifier: MPL-2.0
//
// Linear layers over rows.

#include "linear.cuh"
#include "matmul.cuh"

namespace {

template <class T, class Tile, bool ALIGNED> DEVICE void linear(const LinearArgs& args) {
    multiply<T, Tile, ALIGNED>(Linear<T>{args}, 0);
}

template <class T> DEVICE void linear_wide(const LinearArgs& args) { linear<T, Wide, true>(args); }
template <class T> DEVICE void linear_middle(const LinearArgs& args) { linear<T, Middle, true>(args); }
template <class T> DEVICE void linear_narrow(const LinearArgs& args) { linear<T, Narrow, true>(args); }
template <class T> DEVICE void linear_odd(const LinearArgs& args) { linear<T, Middle, false>(args); }

}

KERNELS_RESIDENT(linear_wide, THREADS, BLOCKS, WideShared, LinearArgs)
KERNELS_RESIDENT(linear_middle, THREADS, BLOCKS, MiddleShared, LinearArgs)
KERNELS_RESIDENT(linear_narrow, THREADS, BLOCKS, NarrowShared, LinearArgs)
KERNELS_RESIDENT(linear_odd, THREADS, BLOCKS, MiddleShared, LinearArgs)
