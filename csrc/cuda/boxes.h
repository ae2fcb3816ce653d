// Sums over windows of a plane's tile in shared memory, and the running sums along i that feed them: what both kernels of local NCC consist of.
//
// A block marches along i over a tile of kTileJ x kTileK voxels of the plane (j, k). Each thread keeps, for its share of the tile and the halo
// around it, sums over the window along i: plus the plane that enters, minus the one that leaves, which is read again (from L2, where it lies
// since a few planes). So nothing but those sums has to be kept: no ring of planes. A plane's sums then go through shared memory twice: along k, a
// thread making kSegmentK neighbours from one stretch of a row, and along j, kSegmentJ neighbours from one stretch of a column. Sums of a stretch
// are made by doubling, s2 = x + x', s4 = s2 + s2', ..: a few additions each and no subtraction, so that what is large beside a window leaves no
// trace in it.
#pragma once
#include "cuda/device.h"

namespace regkit::cuda {

constexpr int kTileJ = 16, kTileK = 64, kSegmentJ = 4, kSegmentK = 8;
constexpr int kThreads = kTileK * (kTileJ / kSegmentJ);

template <int W>
struct PlaneTile {
  static constexpr int kHalo = W / 2;
  static constexpr int kDown = kTileJ + 2 * kHalo, kAcross = kTileK + 2 * kHalo;
  static constexpr int kPitch = (kAcross + 6) / 8 * 8 + 1;  // 1 mod 8: eight rows of four stretches lie in 32 banks
  static constexpr int kShare = (kDown * kAcross + kThreads - 1) / kThreads;  // of a thread, of tile and halo
  static constexpr int kLoaded = kDown * kPitch, kSummed = kDown * kTileK;    // numbers in shared memory, a field

  static constexpr size_t shared_bytes(int fields) { return fields * (kLoaded + kSummed) * sizeof(float); }
};

// sums[n] = x[n] + .. + x[n + W - 1].
template <int W, int N>
REGKIT_INLINE void window_sums(const float (&x)[N + W - 1], float (&sums)[N]) {
  float power[N + W - 1];
#pragma unroll
  for (int n = 0; n < N + W - 1; ++n) power[n] = x[n];
#pragma unroll
  for (int n = 0; n < N; ++n) sums[n] = 0;
  int done = 0;  // of the window, by the powers of two in W
#pragma unroll
  for (int width = 1; width <= W; width *= 2) {
    if (W & width) {
#pragma unroll
      for (int n = 0; n < N; ++n) sums[n] += power[n + done];
      done += width;
    }
#pragma unroll
    for (int n = 0; n < N + W - 1; ++n)
      if (n + width < N + W - 1) power[n] += power[n + width];
  }
}

// Boxes of W x W voxels of `fields` planes' tiles. loaded: what the threads have put there, a field of kDown rows of kPitch; summed: space.
// Each thread gets the kSegmentJ voxels down from (its row * kSegmentJ) in its column: box[field][n]. Ends with all threads past `loaded`.
template <int W, int kFields>
__device__ __forceinline__ void plane_boxes(const float* loaded, float* summed, float (&box)[kFields][kSegmentJ]) {
  using Plane = PlaneTile<W>;
  constexpr int kStretches = kTileK / kSegmentK, kWork = ceil_div(kFields * Plane::kDown, 8) * 8 * kStretches;
  const int thread = threadIdx.x;
  __syncthreads();
  for (int work = thread; work < kWork; work += kThreads) {
    // Lanes: 8 rows of 4 stretches, the order in which their banks differ.
    const int stretch = work % 4 + work / 32 % (kStretches / 4) * 4, row = work / 4 % 8 + work / (8 * kStretches) * 8;
    if (row >= kFields * Plane::kDown) continue;
    const float* from = loaded + row * Plane::kPitch + stretch * kSegmentK;
    float x[kSegmentK + W - 1], sums[kSegmentK];
#pragma unroll
    for (int n = 0; n < kSegmentK + W - 1; ++n) x[n] = from[n];
    window_sums<W, kSegmentK>(x, sums);
    float* to = summed + row * kTileK + stretch * kSegmentK;
#pragma unroll
    for (int n = 0; n < kSegmentK; ++n) to[n] = sums[n];
  }
  __syncthreads();
  const int column = thread % kTileK, first = thread / kTileK * kSegmentJ;
#pragma unroll
  for (int field = 0; field < kFields; ++field) {
    const float* from = summed + (field * Plane::kDown + first) * kTileK + column;
    float x[kSegmentJ + W - 1];
#pragma unroll
    for (int n = 0; n < kSegmentJ + W - 1; ++n) x[n] = from[n * kTileK];
    window_sums<W, kSegmentJ>(x, box[field]);
  }
}

// Where a block works: a tile of planes i0 .. i0 + chunk of a volume.
struct March {
  int64_t volume;
  int i0, j0, k0;
};

__device__ __forceinline__ March march_here(int ni, int nj, int nk, int chunk) {
  const int across = ceil_div(nk, kTileK), down = ceil_div(nj, kTileJ), chunks = ceil_div(ni, chunk);
  const int block = blockIdx.x, above = block / across / down;
  return {above / chunks, above % chunks * chunk, block / across % down * kTileJ, block % across * kTileK};
}

}  // namespace regkit::cuda
