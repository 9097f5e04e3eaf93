// SPDX-License-Identifier: MPL-2.0
//
// The layout of queries, keys and values between qk.cu and attention. In 16-bit types they are tiled: a tile is one
// window of one head, 32 KiB, as two halves of 64 channels. A half is 128 rows of 128 bytes, swizzled: 16-byte vector p
// of row r lies at p ^ r % 8. wgmma reads exactly this from shared memory ("128-byte swizzling" in the PTX manual), so
// that a tile gets there by one bulk copy. Tiles are ordered by window, then head. In CUTLASS's notation, with H heads:
// Swizzle<3,4,3>, on byte addresses, o (window, head, half, row, channel) : (16384 H, 16384, 8192, 64, 1), in values.
// In f32 they are plain rows.
#pragma once

#include "prims.cuh"

// Channels of a head.
constexpr u32 HEAD = 128;
// Tokens of an attention window, 2 frames x 8 rows x 8 columns. Rows are in window order.
constexpr u32 WINDOW = 128;
// The most frame pairs of keys and values that a kernel's arguments can name.
constexpr u32 MAX_GROUPS = 64;

// The tiled layout of rows of `dim` values: offsets in values.
template <class T> struct TiledQkv {
    static constexpr u32 TILE = WINDOW * HEAD, HALF = WINDOW * 64;
    u32 dim;

    // The tile of a head in a window.
    METHOD u64 tile(u32 window, u32 head) const { return (u64(window) * (dim / HEAD) + head) * TILE; }
    // The offset of 16-byte vector p of a row in its tile.
    static METHOD u32 vec16(u32 row, u32 p) { return p / 8 * HALF + row * 64 + (p % 8 ^ row % 8) * 8; }
    // The distance from a vector to the same one of the next head.
    METHOD u32 next_head() const { return TILE; }
    // The distance from a vector to the same one `rows` rows below, a multiple of 8.
    METHOD u32 below(u32 rows) const { return rows * 64; }
};

// The layout of plain rows, with the same functions.
template <> struct TiledQkv<float> {
    u32 dim;

    METHOD u64 tile(u32 window, u32 head) const { return u64(window) * WINDOW * dim + head * HEAD; }
    METHOD u32 vec16(u32 row, u32 p) const { return row * dim + p * 4; }
    METHOD u32 next_head() const { return HEAD; }
    METHOD u32 below(u32 rows) const { return rows * dim; }
};
