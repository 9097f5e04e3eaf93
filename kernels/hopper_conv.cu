// SPDX-License-Identifier: MPL-2.0
//
// Convolutions on Hopper.

#include "conv.cuh"
#include "gemm_wgmma.cuh"

namespace {

template <class T, class Tile> DEVICE void conv(const ConvArgs& args) {
    gemm<T, Tile>(Conv<T>{args}, args.batches, args.blocks);
}

template <class T> DEVICE void hopper_conv_wide(const ConvArgs& args) { conv<T, T128x256>(args); }
template <class T> DEVICE void hopper_conv_tall(const ConvArgs& args) { conv<T, T256x128>(args); }

}

KERNELS_HOPPER(hopper_conv_wide, THREADS, T128x256Shared, ConvArgs)
KERNELS_HOPPER(hopper_conv_tall, THREADS, T256x128Shared, ConvArgs)
