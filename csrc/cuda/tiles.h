// Which voxels a block of threads works on: kRows rows of kWarpSize x kStrips voxels in one plane i of one volume b.
//
// Blocks are numbered in one row, k fastest: the grid's other axes end at 65535. A warp's loads along k are whole lines of memory. A thread takes
// kStrips voxels that lie a warp's width apart, so that their loads are on their way at the same time and stay whole lines; consecutive voxels
// in a thread would turn each gather of a warp into four. Rows in one block share the cells between them in L1.
//
// Offsets of rows have 64 bits everywhere: addresses do, so that it costs an addition a row, and one kernel serves images of any size.
#pragma once
#include "cuda/device.h"

namespace regkit::cuda {

constexpr int kRows = 8, kStrips = 2, kTile = kWarpSize * kStrips;

struct Extent {
  int ni, nj, nk;
  REGKIT_INLINE int64_t voxels() const { return static_cast<int64_t>(ni) * nj * nk; }
  REGKIT_INLINE int64_t row(int i, int j) const { return (static_cast<int64_t>(i) * nj + j) * nk; }  // offset of a row's first voxel
};

inline Extent extent(const int64_t (&size)[3]) { return {static_cast<int>(size[0]), static_cast<int>(size[1]), static_cast<int>(size[2])}; }

inline int64_t tiles(int64_t volumes, const int64_t (&size)[3]) {
  return volumes * size[0] * ceil_div<int64_t>(size[1], kRows) * ceil_div<int64_t>(size[2], kTile);
}

struct Tile {
  int b, i, j, k;  // of the thread's first voxel; the others are kWarpSize apart along k
};

// number: of the tile, below `tiles`.
__device__ __forceinline__ Tile tile_at(int number, const Extent& n) {
  const int across = ceil_div(n.nk, kTile), down = ceil_div(n.nj, kRows);
  const int column = number % across, row = number / across % down, plane = number / across / down;
  return {plane / n.ni, plane % n.ni, row * kRows + static_cast<int>(threadIdx.y), column * kTile + static_cast<int>(threadIdx.x)};
}

__device__ __forceinline__ Tile tile_here(const Extent& n) { return tile_at(static_cast<int>(blockIdx.x), n); }

}  // namespace regkit::cuda
