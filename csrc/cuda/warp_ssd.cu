// Sum of squares of fixed - warp(moving, displacement) and its gradient by the displacement in one kernel on a GPU.
//
// Bytes a voxel in 3-D, C channels of s bytes: 24 + 2sC (u, fixed, moving, gradient). Warp, difference and the two gradients would move 24 + 24C of
// float32. Positions and weights are computed once for all channels; a channel's value and slopes come from the same cells.
#include "cuda/warp_ssd.h"

#include "cuda/cells.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = kWarpSize * kRows, kWarps = kThreads / kWarpSize;

template <int D, Padding padding>
__global__ void __launch_bounds__(kThreads, 3) squares(const void* __restrict__ fixed, const void* __restrict__ moving, StoredAs stored, const float* __restrict__ u, const float* __restrict__ weight, const float* __restrict__ scale, float* __restrict__ gradient, float* __restrict__ partials, int channels, Extent m, Extent n, float fill) {
  __shared__ float warps[kWarps];
  const Tile t = tile_here(n);
  const int64_t voxels = n.voxels(), cells = m.voxels(), row = n.row(t.i, t.j);
  float total = 0.0f;
#pragma unroll 1  // one after the other: the slopes of two would not fit into registers
  for (int strip = 0; strip < kStrips; ++strip) {
    const int k = t.k + strip * kWarpSize;
    if (t.j >= n.nj || k >= n.nk) break;
    const int64_t at = static_cast<int64_t>(t.b) * D * voxels + row + k, images = static_cast<int64_t>(t.b) * channels;
    float c[3], by[D] = {}, sum = 0.0f;
    displaced<D>(u, at, voxels, t.i, t.j, k, c);
    const Cells<D, padding, float> around(c, m);
    as_stored(moving, stored, [&](auto* source) {
      auto* target = static_cast<decltype(source)>(fixed) + images * voxels + row + k;
      source += images * cells;
      for (int channel = 0; channel < channels; ++channel, source += cells, target += voxels) {
        const auto read = around.read(source, fill);
        const float difference = around.value(read) + fill - load(*target);
        sum += difference * difference;
        if (gradient) around.add_slopes(read, difference, by);
      }
    });
    const float w = weight ? weight[static_cast<int64_t>(t.b) * voxels + row + k] : 1.0f;
    total += w * sum;
    if (gradient) {
#pragma unroll
      for (int d = 0; d < D; ++d) gradient[at + d * voxels] = 2.0f * *scale * w * by[d];
    }
  }
  for (int apart = kWarpSize / 2; apart; apart /= 2) total += __shfl_xor_sync(0xffffffffu, total, apart);
  if (threadIdx.x == 0) warps[threadIdx.y] = total;
  __syncthreads();
  if (threadIdx.x || threadIdx.y) return;
  for (int warp = 1; warp < kWarps; ++warp) total += warps[warp];
  partials[blockIdx.x] = total;
}

}  // namespace

int64_t warp_ssd_blocks(const WarpSizes& s) { return tiles(s.batch, s.output); }

void warp_ssd(const WarpSsdCall& c, Stream stream) {
  const WarpSizes& s = c.sizes;
  for_axes_and_padding(s.dims, c.padding, [&](auto dims, auto pad) {
    launch(squares<dims.value, static_cast<Padding>(pad.value)>, warp_ssd_blocks(s), dim3(kWarpSize, kRows), 0, stream,
           c.fixed, c.moving, c.stored, c.displacement, c.weight, c.scale, c.gradient, c.partials, s.channels, extent(s.image), extent(s.output), c.fill);
  });
}

}  // namespace regkit::cuda
