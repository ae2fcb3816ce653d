// Local correlation on a GPU. Formulas: core/correlate_dense.h.
//
// Bytes a voxel, C channels of s bytes, L displacements: forward reads 2 C s and writes L s; a gradient reads L s + 2 C s and writes C s. Radius 4 in
// 3-D has L = 729: writing (reading) the map bounds it for a dozen channels of halves, the sums for more. Those come from shared memory, whose loads
// bound them unless each serves several sums. So a thread has four voxels along k and all 2 R + 1 displacements along k: of 12 neighbours, three
// loads of 16 bytes, come 36 sums; forward those of three displacements along j, which share the loads of a, too.
// Features stay channels-first: a block copies the tile of both that it needs, a few channels at a time, into shared memory, zeros around the image.
#include "cuda/correlate_dense.h"

#include "core/correlate_dense.h"
#include "cuda/tiles.h"

namespace regkit::cuda {
namespace {

constexpr int kEach = 4, kAcross = 16, kDown = 8, kThreads = kAcross * kDown;  // voxels of a thread; threads along k and j
constexpr int kVoxelsK = kEach * kAcross, kHalo = kMostDense, kPitch = kVoxelsK + 2 * kHalo;
constexpr int kTogether = 3;               // displacements along j, forward
constexpr int kChannels = 8;               // in shared memory at a time
constexpr int kRowsForward = kDown + kTogether - 1;

// The tile a block works on, and what its threads have of it.
struct DenseTile {
  int b, part, i, j0, k0, j, k;  // part: what else the grid is divided by

  __device__ __forceinline__ DenseTile(const Extent& n, int parts) {
    const int across = ceil_div(n.nk, kVoxelsK), down = ceil_div(n.nj, kDown), block = blockIdx.x;
    k0 = block % across * kVoxelsK;
    j0 = block / across % down * kDown;
    i = block / across / down % n.ni;
    part = block / across / down / n.ni % parts;
    b = block / across / down / n.ni / parts;
    j = j0 + static_cast<int>(threadIdx.x) / kAcross;
    k = k0 + static_cast<int>(threadIdx.x) % kAcross * kEach;
  }
};

int64_t dense_blocks(const DenseSizes& s, int64_t parts) {
  return s.batch * parts * s.size[0] * ceil_div<int64_t>(s.size[1], kDown) * ceil_div<int64_t>(s.size[2], kVoxelsK);
}

// Fills rows of kPitch: `count` channels, the first at `first` in `maps`, of the rows [j, j + rows) of plane i, columns from k; zeros outside the image.
__device__ __forceinline__ void fill_rows(float* rows, int row_count, int count, const void* maps, StoredAs stored, int64_t first, int64_t voxels, const Extent& n, int i, int j, int k) {
  const bool plane = i >= 0 && i < n.ni;
  as_stored(maps, stored, [&](auto* map) {
    map += first;
    for (int at = threadIdx.x; at < count * row_count * kPitch; at += kThreads) {
      const int column = at % kPitch, row = at / kPitch % row_count, channel = at / kPitch / row_count;
      const int rj = j + row, rk = k + column;
      const bool inside = plane && rj >= 0 && rj < n.nj && rk >= 0 && rk < n.nk;
      rows[at] = inside ? load(map[channel * voxels + n.row(i, rj) + rk]) : 0.0f;
    }
  });
}

// The kEach voxels of a thread and kHalo on both sides of them.
__device__ __forceinline__ void load_neighbours(const float* row, float (&x)[kEach + 2 * kHalo]) {
#pragma unroll
  for (int part = 0; part < (kEach + 2 * kHalo) / 4; ++part) {
    const float4 four = reinterpret_cast<const float4*>(row)[part];
    x[4 * part] = four.x, x[4 * part + 1] = four.y, x[4 * part + 2] = four.z, x[4 * part + 3] = four.w;
  }
}

template <int R, bool ssd>
__global__ void __launch_bounds__(kThreads, 3) forward(const void* __restrict__ a, const void* __restrict__ b, void* __restrict__ out, StoredAs stored, int channels, Extent n, int radius_i) {
  constexpr int S = 2 * R + 1, kGroups = (S + kTogether - 1) / kTogether;
  __shared__ __align__(16) float own[kChannels * kDown * kPitch];
  __shared__ __align__(16) float other[kChannels * kRowsForward * kPitch];
  const int side_i = 2 * radius_i + 1;
  const DenseTile t(n, side_i * kGroups);
  const int di = t.part / kGroups, first = t.part % kGroups * kTogether;  // displacements along i and, the first of them, along j
  const int64_t voxels = n.voxels(), volume = static_cast<int64_t>(t.b) * channels * voxels;
  const int ty = t.j - t.j0, tx = t.k - t.k0;
  float sums[kTogether][S][kEach] = {};
  for (int c0 = 0; c0 < channels; c0 += kChannels) {
    const int count = min(kChannels, channels - c0);
    __syncthreads();
    fill_rows(own, kDown, count, a, stored, volume + c0 * voxels, voxels, n, t.i, t.j0, t.k0 - kHalo);
    fill_rows(other, kRowsForward, count, b, stored, volume + c0 * voxels, voxels, n, t.i + di - radius_i, t.j0 + first - R, t.k0 - kHalo);
    __syncthreads();
    for (int c = 0; c < count; ++c) {
      const float4 mine = reinterpret_cast<const float4*>(own + (c * kDown + ty) * kPitch + tx + kHalo)[0];
      const float x[kEach] = {mine.x, mine.y, mine.z, mine.w};
#pragma unroll
      for (int dj = 0; dj < kTogether; ++dj) {
        float y[kEach + 2 * kHalo];
        load_neighbours(other + (c * kRowsForward + ty + dj) * kPitch + tx, y);
#pragma unroll
        for (int dk = 0; dk < S; ++dk)
#pragma unroll
          for (int v = 0; v < kEach; ++v) sums[dj][dk][v] += dense_term<ssd>(x[v], y[kHalo - R + dk + v]);
      }
    }
  }
  if (t.j >= n.nj) return;
  const float scale = 1.0f / static_cast<float>(channels);
#pragma unroll
  for (int dj = 0; dj < kTogether; ++dj) {
    if (first + dj >= S) return;
#pragma unroll
    for (int dk = 0; dk < S; ++dk) {
      const int64_t d = (static_cast<int64_t>(t.b) * side_i + di) * S * S + (first + dj) * S + dk;
      const int64_t at = d * voxels + n.row(t.i, t.j) + t.k;
#pragma unroll
      for (int v = 0; v < kEach; ++v)
        if (t.k + v < n.nk) put(out, stored, at + v, scale * sums[dj][dk][v]);
    }
  }
}

// The gradient by `own`. second: own is b, and the weight of displacement e is what displacement -e of the voxel x + e has.
template <int R, bool ssd, bool second>
__global__ void __launch_bounds__(kThreads, 3) backward(const void* __restrict__ grad, const void* __restrict__ own, const void* __restrict__ other_map, void* __restrict__ gradient, StoredAs stored, int channels, int parts, Extent n, int radius_i) {
  constexpr int S = 2 * R + 1, kRows = kDown + 2 * R;
  __shared__ __align__(16) float other[kChannels * kRows * kPitch];
  const DenseTile t(n, parts);
  const int each = ceil_div(channels, parts), c0 = t.part * each, count = min(each, channels - c0);
  const int side_i = 2 * radius_i + 1, displacements = side_i * S * S;
  const int64_t voxels = n.voxels(), map = (static_cast<int64_t>(t.b) * channels + c0) * voxels;
  const int ty = t.j - t.j0, tx = t.k - t.k0;
  const int64_t first_weight = static_cast<int64_t>(t.b) * displacements * voxels;
  float sums[kChannels][kEach] = {}, total[kEach] = {};
  for (int di = 0; di < side_i; ++di) {
    const int i = t.i + di - radius_i;
    if (second && (i < 0 || i >= n.ni)) continue;  // the same in all threads
    __syncthreads();
    fill_rows(other, kRows, count, other_map, stored, map, voxels, n, i, t.j0 - R, t.k0 - kHalo);
    __syncthreads();
#pragma unroll 1
    for (int dj = 0; dj < S; ++dj) {
      float w[S][kEach];
      const int j = t.j + dj - R;
      as_stored(grad, stored, [&](auto* weights) {
        weights += first_weight;
#pragma unroll
        for (int dk = 0; dk < S; ++dk)
#pragma unroll
          for (int v = 0; v < kEach; ++v) {
            const int d = (di * S + dj) * S + dk;
            if constexpr (second) {
              const int k = t.k + v + dk - R;
              const bool there = j >= 0 && j < n.nj && k >= 0 && k < n.nk;
              w[dk][v] = there ? load(weights[(displacements - 1 - d) * voxels + n.row(i, j) + k]) : 0.0f;
            } else {
              const bool there = t.j < n.nj && t.k + v < n.nk;
              w[dk][v] = there ? load(weights[d * voxels + n.row(t.i, t.j) + t.k + v]) : 0.0f;
            }
            if constexpr (ssd) total[v] += w[dk][v];
          }
      });
#pragma unroll
      for (int c = 0; c < kChannels; ++c) {
        if (c >= count) break;
        float y[kEach + 2 * kHalo];
        load_neighbours(other + (c * kRows + ty + dj) * kPitch + tx, y);
#pragma unroll
        for (int dk = 0; dk < S; ++dk)
#pragma unroll
          for (int v = 0; v < kEach; ++v) sums[c][v] += w[dk][v] * y[kHalo - R + dk + v];
      }
    }
  }
  if (t.j >= n.nj) return;
  const float scale = (ssd ? 2.0f : 1.0f) / static_cast<float>(channels);
#pragma unroll
  for (int c = 0; c < kChannels; ++c) {
    if (c >= count) return;
#pragma unroll
    for (int v = 0; v < kEach; ++v) {
      if (t.k + v >= n.nk) break;
      const int64_t at = map + c * voxels + n.row(t.i, t.j) + t.k + v;
      // ssd: sum of weight (own - other) = own * sum of weights - sum of weight * other
      float sum = sums[c][v];
      if constexpr (ssd) as_stored(own, stored, [&](auto* x) { sum = total[v] * load(x[at]) - sum; });
      put(gradient, stored, at, scale * sum);
    }
  }
}

template <class F>
void for_radius_and_metric(const DenseSizes& s, F&& f) {
  choose(s.radius, std::integer_sequence<int, 1, 2, 3, 4>(), [&](auto radius) { choose(s.ssd, std::integer_sequence<bool, false, true>(), [&](auto ssd) { f(radius, ssd); }); });
}

}  // namespace

void correlate_dense(const void* a, const void* b, void* out, const DenseSizes& s, Stream stream) {
  const int radius_i = s.dims == 3 ? s.radius : 0;
  for_radius_and_metric(s, [&](auto radius, auto ssd) {
    const int64_t parts = (2 * radius_i + 1) * ceil_div(2 * radius.value + 1, kTogether);
    launch(forward<radius.value, ssd.value>, dense_blocks(s, parts), dim3(kThreads), 0, stream, a, b, out, s.stored, s.channels, extent(s.size), radius_i);
  });
}

void correlate_dense_backward(const void* grad, const void* own, const void* other, bool second, void* gradient, const DenseSizes& s, Stream stream) {
  const int radius_i = s.dims == 3 ? s.radius : 0, parts = static_cast<int>(ceil_div<int64_t>(s.channels, kChannels));
  for_radius_and_metric(s, [&](auto radius, auto ssd) {
    choose(second, std::integer_sequence<bool, false, true>(), [&](auto by_second) {
      launch(backward<radius.value, ssd.value, by_second.value>, dense_blocks(s, parts), dim3(kThreads), 0, stream,
             grad, own, other, gradient, s.stored, s.channels, parts, extent(s.size), radius_i);
    });
  });
}

}  // namespace regkit::cuda
