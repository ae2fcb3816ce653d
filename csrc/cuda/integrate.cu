// Scaling and squaring on a GPU. Formulas: core/warp.h, regkit/ops/integrate.py.
//
// Bytes a voxel in 3-D: a step 24 (u, out; samples come from L1 and L2). The first four steps in one pass 24 too, where one by one they take 96:
// a block loads its tile with a halo of a voxel for each step, holds the field of the moment in shared memory, and each step makes it smaller by a
// voxel on all sides, since no sample lies further away. Halos are read from L2 (5.3 times the tile) and computed over again (2.3 times). A larger
// displacement is seen by whoever loads it; then the pass fails, and steps one by one, which otherwise end at once, make the field.
// Velocities of 16 voxels and less pass with 7 steps.
#include "cuda/integrate.h"

#include <algorithm>

#include "cuda/cells.h"
#include "cuda/tiles.h"

namespace regkit::cuda {
namespace {

// The coordinates x + u(x) of a voxel from what u is there.
template <int D>
__device__ __forceinline__ void moved(const float (&u)[D], int i, int j, int k, float (&c)[3]) {
  c[0] = D == 3 ? static_cast<float>(i) + u[0] : 0.0f;
  c[1] = static_cast<float>(j) + u[D - 2];
  c[2] = static_cast<float>(k) + u[D - 1];
}

template <int D>
__global__ void __launch_bounds__(kWarpSize* kRows, 4) step(const float* __restrict__ u, float scale, float* __restrict__ out, const int* __restrict__ if_failed, Extent n, int64_t tile_count) {
  if (if_failed && *if_failed == 0) return;
  const int64_t voxels = n.voxels();
  for (int64_t tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
    const Tile t = tile_at(static_cast<int>(tile), n);
    if (t.j >= n.nj) continue;
    const int64_t volume = static_cast<int64_t>(t.b) * D * voxels;
#pragma unroll
    for (int strip = 0; strip < kStrips; ++strip) {
      const int k = t.k + strip * kWarpSize;
      if (k >= n.nk) break;
      const int64_t at = volume + n.row(t.i, t.j) + k;
      float own[D], c[3];
#pragma unroll
      for (int d = 0; d < D; ++d) own[d] = scale * u[at + d * voxels];
      moved<D>(own, t.i, t.j, k, c);
      const Cells<D, Padding::border, float> around(c, n);
#pragma unroll
      for (int d = 0; d < D; ++d) {
        out[at + d * voxels] = own[d] + scale * around.value(around.read(u + volume + d * voxels, 0.0f));
      }
    }
  }
}

// A block's tile in shared memory, `kMostFused` voxels around it included.
template <int D>
struct Fused {
  static constexpr int kThreads = 1024;
  static constexpr int kOutI = D == 3 ? 8 : 1, kOutJ = D == 3 ? 8 : 56, kOutK = D == 3 ? 24 : 56;  // and the halo: powers of two
  static constexpr int kNi = D == 3 ? kOutI + 2 * kMostFused : 1, kNj = kOutJ + 2 * kMostFused, kNk = kOutK + 2 * kMostFused;
  static constexpr int kVoxels = kNi * kNj * kNk, kEach = (kVoxels + kThreads - 1) / kThreads;  // all, and of a thread
  static constexpr size_t kBytes = D * kVoxels * sizeof(float);
  static_assert(kVoxels % kThreads == 0 && kThreads % (D == 3 ? kNk * kNj : kNk) == 0);
};

template <int D>
__global__ void __launch_bounds__(Fused<D>::kThreads, 1) first_steps(const float* __restrict__ v, float scale, int steps, float* __restrict__ out, int* __restrict__ failed, Extent n) {
  using Of = Fused<D>;
  float* field = dynamic_shared<float>();  // D components of kVoxels
  const int across = ceil_div(n.nk, Of::kOutK), down = ceil_div(n.nj, Of::kOutJ), deep = ceil_div(n.ni, Of::kOutI);
  const int block = blockIdx.x, thread = threadIdx.x;
  const int k0 = block % across * Of::kOutK - kMostFused, j0 = block / across % down * Of::kOutJ - kMostFused;
  const int i0 = D == 3 ? block / across / down % deep * Of::kOutI - kMostFused : 0;
  const int64_t voxels = n.voxels(), volume = static_cast<int64_t>(block / across / down / deep) * D * voxels;
  const float most = ldexpf(1.0f, 1 - steps);  // of |u_0|, so that |u_{steps-1}| <= 1

  // A thread's voxels lie in one column of the tile: along i in 3-D, along j in 2-D.
  constexpr int kRowsAtOnce = Of::kThreads / Of::kNk, kStepI = D == 3 ? kRowsAtOnce / Of::kNj : 0, kStepJ = D == 3 ? 0 : kRowsAtOnce;
  const int pk = thread % Of::kNk, pj = thread / Of::kNk % Of::kNj, pi = thread / Of::kNk / Of::kNj;
  const int i = i0 + pi, j = j0 + pj, k = k0 + pk;  // of the first
  // Whether the each-th is at least `margin` from the tile's sides, and in the image.
  const auto within = [&](int each, int margin) {
    const auto inner = [&](int place, int count, int at, int size) { return place >= margin && place < count - margin && at >= 0 && at < size; };
    return inner(pk, Of::kNk, k, n.nk) && inner(pj + each * kStepJ, Of::kNj, j + each * kStepJ, n.nj) &&
           (D == 2 || inner(pi + each * kStepI, Of::kNi, i + each * kStepI, n.ni));
  };

  bool small = true;
  const int unused = kMostFused - steps;  // of the halo
#pragma unroll
  for (int each = 0; each < Of::kEach; ++each) {
    if (!within(each, unused)) continue;
    const int at = each * Of::kThreads + thread;
#pragma unroll
    for (int d = 0; d < D; ++d) {
      const float x = scale * v[volume + d * voxels + n.row(i + each * kStepI, j + each * kStepJ) + k];
      field[d * Of::kVoxels + at] = x;
      small &= fabsf(x) <= most;  // not of NaN
    }
  }
  if (!small) *failed = 1;

  for (int done = 0; done < steps; ++done) {
    const int margin = unused + done + 1;
    float next[Of::kEach][D];
    __syncthreads();
#pragma unroll
    for (int each = 0; each < Of::kEach; ++each) {
      if (!within(each, margin)) continue;
      const int at = each * Of::kThreads + thread, vi = i + each * kStepI, vj = j + each * kStepJ;
      float own[D], c[3];
#pragma unroll
      for (int d = 0; d < D; ++d) own[d] = field[d * Of::kVoxels + at];
      moved<D>(own, vi, vj, k, c);
      Cells<D, Padding::border, float> around(c, n);
      // Cells as steps from the voxel, of at most one: where that changes any that counts, the pass has failed.
      const auto from = [](int cell, int voxel) { return min(max(cell - voxel, -1), 1); };
#pragma unroll
      for (int r = 0; r < (D == 3 ? 4 : 2); ++r) {
        const int di = D == 3 ? from(r & 2 ? around.i.high : around.i.low, vi) : 0, dj = from(r & 1 ? around.j.high : around.j.low, vj);
        around.rows[r] = (di * Of::kNj + dj) * Of::kNk;
      }
      around.k.low = from(around.k.low, k);
      around.k.high = from(around.k.high, k);
#pragma unroll
      for (int d = 0; d < D; ++d) next[each][d] = own[d] + around.value(around.read(field + d * Of::kVoxels + at, 0.0f));
    }
    __syncthreads();
#pragma unroll
    for (int each = 0; each < Of::kEach; ++each) {
      if (!within(each, margin)) continue;
#pragma unroll
      for (int d = 0; d < D; ++d) {
        if (done + 1 < steps) field[d * Of::kVoxels + each * Of::kThreads + thread] = next[each][d];
        else out[volume + d * voxels + n.row(i + each * kStepI, j + each * kStepJ) + k] = next[each][d];
      }
    }
  }
}

}  // namespace

void integrate_step(const float* u, float scale, float* out, const int* if_failed, const FieldSizes& s, Stream stream) {
  const int64_t all = tiles(s.batch, s.size);
  choose(s.dims, std::integer_sequence<int, 2, 3>(), [&](auto dims) {
    launch(step<dims.value>, if_failed ? std::min(all, kResidentBlocks) : all, dim3(kWarpSize, kRows), 0, stream,
           u, scale, out, if_failed, extent(s.size), all);
  });
}

void integrate_first_steps(const float* v, float scale, int steps, float* out, int* failed, const FieldSizes& s, Stream stream) {
  choose(s.dims, std::integer_sequence<int, 2, 3>(), [&](auto dims) {
    using Of = Fused<dims.value>;
    const int64_t blocks = s.batch * ceil_div<int64_t>(s.size[0], Of::kOutI) * ceil_div<int64_t>(s.size[1], Of::kOutJ) * ceil_div<int64_t>(s.size[2], Of::kOutK);
    launch(first_steps<dims.value>, blocks, dim3(Of::kThreads), Of::kBytes, stream, v, scale, steps, out, failed, extent(s.size));
  });
}

}  // namespace regkit::cuda
