// SPDX-License-Identifier: MPL-2.0
//
// Linear layers on Hopper.

#include "gemm_wgmma.cuh"
#include "linear.cuh"

namespace {

template <class T, class Tile> DEVICE void linear(const LinearArgs& args) {
    gemm<T, Tile>(Linear<T>{args}, 1, args.blocks);
}

template <class T> DEVICE void hopper_linear_wide(const LinearArgs& args) { linear<T, T128x256>(args); }
template <class T> DEVICE void hopper_linear_tall(const LinearArgs& args) { linear<T, T256x128>(args); }

}

KERNELS_HOPPER(hopper_linear_wide, THREADS, T128x256Shared, LinearArgs)
KERNELS_HOPPER(hopper_linear_tall, THREADS, T256x128Shared, LinearArgs)
