// SPDX-License-Identifier: MPL-2.0
//
// Convolutions. block_z is the layer.

#include "conv.cuh"
#include "matmul.cuh"

namespace {

template <class T, class Tile, bool ALIGNED> DEVICE void conv(const ConvArgs& args) {
    multiply<T, Tile, ALIGNED>(Conv<T>{args}, block_z());
}

template <class T> DEVICE void conv_wide(const ConvArgs& args) { conv<T, Wide, true>(args); }
template <class T> DEVICE void conv_middle(const ConvArgs& args) { conv<T, Middle, true>(args); }
template <class T> DEVICE void conv_narrow(const ConvArgs& args) { conv<T, Narrow, true>(args); }
template <class T> DEVICE void conv_odd(const ConvArgs& args) { conv<T, Middle, false>(args); }

}

KERNELS_RESIDENT(conv_wide, THREADS, BLOCKS, WideShared, ConvArgs)
KERNELS_RESIDENT(conv_middle, THREADS, BLOCKS, MiddleShared, ConvArgs)
KERNELS_RESIDENT(conv_narrow, THREADS, BLOCKS, NarrowShared, ConvArgs)
KERNELS_RESIDENT(conv_odd, THREADS, BLOCKS, MiddleShared, ConvArgs)
