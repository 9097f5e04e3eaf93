// SPDX-License-Identifier: MPL-2.0
//
// How queries, keys and values lie between qk.cu and attention. In 16-bit types in tiles: what a window of rows and a
// head have in common lies together, 32 KiB, as two halves of 64 channels. A half is 128 rows of 128 bytes, of which row
// r has its 16-byte vector p at p ^ r % 8. That is what Hopper's tensor cores read from shared memory ("128-byte
// swizzling" in the PTX manual), so that a tile gets there in one copy. Tiles are in the order of windows, then heads.
// In f32 they are plain rows.
#pragma once

#include "prims.cuh"

constexpr u32 HEAD = 128;
// Rows are in window order: 128 tokens of 2 frames x 8 rows x 8 columns each.
constexpr u32 WINDOW = 128;
// Frame pairs of keys.
constexpr u32 MAX_GROUPS = 64;

// Rows of `dim` values in tiles.
template <class T> struct TiledQkv {
    static constexpr u32 TILE = WINDOW * HEAD, HALF = WINDOW * 64;
    u32 dim;

    // Where a head begins in a window.
    METHOD u64 tile(u32 window, u32 head) const { return (u64(window) * (dim / HEAD) + head) * TILE; }
    // From there to a 16-byte vector of a row.
    static METHOD u32 vec16(u32 row, u32 p) { return p / 8 * HALF + row * 64 + (p % 8 ^ row % 8) * 8; }
    // From a vector to the same one of the next head.
    METHOD u32 next_head() const { return TILE; }
    // From a vector to the same one of a row that lies so many rows below, a multiple of 8.
    METHOD u32 below(u32 rows) const { return rows * 64; }
};

// The same of plain rows.
template <> struct TiledQkv<float> {
    u32 dim;

    METHOD u64 tile(u32 window, u32 head) const { return u64(window) * WINDOW * dim + head * HEAD; }
    METHOD u32 vec16(u32 row, u32 p) const { return row * dim + p * 4; }
    METHOD u32 next_head() const { return HEAD; }
    METHOD u32 below(u32 rows) const { return rows * dim; }
};
