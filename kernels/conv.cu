// SPDX-License-Identifier: MPL-2.0
//
// Convolutions on every GPU; block_z is the batch.

#include "conv.cuh"
#include "gemm_mma.cuh"

namespace {

template <class T, class Tile, bool ALIGNED> DEVICE void conv(const ConvArgs& args) {
    gemm<T, Tile, ALIGNED>(Conv<T>{args}, block_z());
}

template <class T> DEVICE void conv_wide(const ConvArgs& args) { conv<T, T128x128, true>(args); }
template <class T> DEVICE void conv_middle(const ConvArgs& args) { conv<T, T128x64, true>(args); }
template <class T> DEVICE void conv_narrow(const ConvArgs& args) { conv<T, T256x16, true>(args); }
template <class T> DEVICE void conv_odd(const ConvArgs& args) { conv<T, T128x64, false>(args); }

}

KERNELS_RESIDENT(conv_wide, THREADS, BLOCKS, T128x128Shared, ConvArgs)
KERNELS_RESIDENT(conv_middle, THREADS, BLOCKS, T128x64Shared, ConvArgs)
KERNELS_RESIDENT(conv_narrow, THREADS, BLOCKS, T256x16Shared, ConvArgs)
KERNELS_RESIDENT(conv_odd, THREADS, BLOCKS, T128x64Shared, ConvArgs)
