// SPDX-License-Identifier: MPL-2.0
//
// Convolutions on Hopper.

#include "conv.cuh"
#include "hopper_matmul.cuh"

namespace {

template <class T, class Tile> DEVICE void conv(const ConvArgs& args) {
    multiply<T, Tile>(Conv<T>{args}, args.layers, args.blocks);
}

template <class T> DEVICE void hopper_conv_wide(const ConvArgs& args) { conv<T, Wide>(args); }
template <class T> DEVICE void hopper_conv_tall(const ConvArgs& args) { conv<T, Tall>(args); }

}

KERNELS_HOPPER(hopper_conv_wide, THREADS, WideShared, ConvArgs)
KERNELS_HOPPER(hopper_conv_tall, THREADS, TallShared, ConvArgs)
