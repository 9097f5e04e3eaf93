// SPDX-License-Identifier: MPL-2.0
//
// Linear layers over rows, on Hopper.

#include "hopper_matmul.cuh"
#include "linear.cuh"

namespace {

template <class T, class Tile> DEVICE void linear(const LinearArgs& args) {
    multiply<T, Tile>(Linear<T>{args}, 1, args.blocks);
}

template <class T> DEVICE void hopper_linear_wide(const LinearArgs& args) { linear<T, Wide>(args); }
template <class T> DEVICE void hopper_linear_tall(const LinearArgs& args) { linear<T, Tall>(args); }

}

KERNELS_HOPPER(hopper_linear_wide, THREADS, WideShared, LinearArgs)
KERNELS_HOPPER(hopper_linear_tall, THREADS, TallShared, LinearArgs)
