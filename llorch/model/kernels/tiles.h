// Packed weights: the one layout that all instruction sets read, and that keys and values are cached in, too.
//
// A matrix w[k][n] is cut into *tile columns* of 16 consecutive n. A tile column lies in memory as K/2 lines of
// 16 x 2 bf16 (column n's values for k and k+1 side by side), or K/4 lines of 16 x 4 int8: 64 bytes a line. K is padded
// with zeros to a multiple of 32 (bf16) or 64 (int8), N to a multiple of 16.
#pragma once
#include <cstddef>

#include "simd.h"

namespace llorch {

constexpr int TILE = 16;    // columns of a tile column
constexpr int K_UNIT = 64;  // rows of activations are padded with zeros to a multiple of this

constexpr int AHEAD = 4096;  // bytes that weights are asked for ahead of their use

// bf16 elements from one tile column to the next for a depth of `k`.
inline constexpr size_t tile_column(int k) { return size_t(k) * TILE; }

}  // namespace llorch
