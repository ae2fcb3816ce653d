// Local NCC on a GPU in two sweeps. Formulas: core/lncc.h; how a sweep goes: boxes.h.
//
// Bytes a voxel, float32, gradient by one image: windows read 8 and write 3 adjoints, 12; the gradient reads those and the images, 20, and
// writes 4: 44. By both images 60. Where that image is a warp of one channel, the gradient goes on to its displacement at once: in 3-D it reads
// 20 as above, u and the moving image, 16, and writes 12; the gradient by the warped image is in registers only.
// Volumes go in groups of a few million voxels (regkit/ops/lncc_cuda.py), so that adjoints stay in L2: then 20 and 24 cross the memory bus.
// From L2 a block of 16 x 64 reads its halo too (1.7 times the tile for windows of 9), and what leaves again.
// Shared memory, that of windows of 9: 66 KB for five sums of the images, 40 KB for three adjoints; three blocks and five on an SM with 227 KB.
//
// Images are shifted by about their mean: what lies outside is 0 - shift. Sums along i are float32 in the first sweep and start anew after a
// chunk of planes, which bounds their drift. Adjoints span many orders of magnitude (1 / variance): those sums are float64, so that what left
// leaves no trace.
#include "cuda/lncc.h"

#include "core/lncc.h"
#include "cuda/boxes.h"
#include "cuda/cells.h"

namespace regkit::cuda {
namespace {

constexpr int kChunk = 32;  // planes
constexpr int blocks_per_sm(int window, int fields) { return window <= 11 && fields <= 3 ? 2 : 1; }  // that registers must leave room for

struct Volumes {
  const void *a, *b;
  StoredAs stored;
  int ni, nj, nk;
};

// A thread's share of the tile and its halo: the offset of each voxel in its plane, or -1 outside the image.
template <int W>
struct Share {
  int at[PlaneTile<W>::kShare];

  __device__ __forceinline__ Share(const March& m, int nj, int nk) {
#pragma unroll
    for (int n = 0; n < PlaneTile<W>::kShare; ++n) {
      const int place = n * kThreads + static_cast<int>(threadIdx.x), row = place / PlaneTile<W>::kAcross;
      const int j = m.j0 - PlaneTile<W>::kHalo + row, k = m.k0 - PlaneTile<W>::kHalo + place % PlaneTile<W>::kAcross;
      at[n] = row < PlaneTile<W>::kDown && j >= 0 && j < nj && k >= 0 && k < nk ? j * nk + k : -1;
    }
  }

  // Where the n-th voxel lies in a field of PlaneTile's `loaded`, or -1 for one beyond the last.
  static __device__ __forceinline__ int place(int n) {
    const int place = n * kThreads + static_cast<int>(threadIdx.x), row = place / PlaneTile<W>::kAcross;
    return row < PlaneTile<W>::kDown ? row * PlaneTile<W>::kPitch + place % PlaneTile<W>::kAcross : -1;
  }
};

// sums[n] += sign * products of the plane's voxels.
template <int W, class Stored>
__device__ __forceinline__ void add_products(float (&sums)[PlaneTile<W>::kShare][5], const Share<W>& share, const Stored* __restrict__ a, const Stored* __restrict__ b, float shift_a, float shift_b, float sign) {
  float x[PlaneTile<W>::kShare], y[PlaneTile<W>::kShare];
#pragma unroll
  for (int n = 0; n < PlaneTile<W>::kShare; ++n) {
    x[n] = share.at[n] >= 0 ? load(a[share.at[n]]) : 0.0f;
    y[n] = share.at[n] >= 0 ? load(b[share.at[n]]) : 0.0f;
  }
#pragma unroll
  for (int n = 0; n < PlaneTile<W>::kShare; ++n) {
    const float xs = x[n] - shift_a, ys = y[n] - shift_b, signed_x = sign * xs, signed_y = sign * ys;
    sums[n][0] += signed_x;
    sums[n][1] += signed_y;
    sums[n][2] += signed_x * xs;
    sums[n][3] += signed_y * ys;
    sums[n][4] += signed_x * ys;
  }
}

template <int W>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(W, 3)) windows(Volumes v, const float* __restrict__ shifts_a, const float* __restrict__ shifts_b, const float* __restrict__ weight, int64_t first_volume, int64_t per_weight, int wi, float eps, int chunk, float* __restrict__ partials, void* __restrict__ map, float* __restrict__ adjoints, int64_t between, bool both) {
  using Plane = PlaneTile<W>;
  float* loaded = dynamic_shared<float>();
  float* summed = loaded + 5 * Plane::kLoaded;
  const March m = march_here(v.ni, v.nj, v.nk, chunk);
  const Share<W> share(m, v.nj, v.nk);
  const int64_t plane = static_cast<int64_t>(v.nj) * v.nk, first = m.volume * v.ni * plane;
  const float shift_a = shifts_a[m.volume], shift_b = shifts_b[m.volume], inverse_n = 1.0f / (static_cast<float>(wi) * W * W);
  const int k = m.k0 + static_cast<int>(threadIdx.x) % kTileK, j = m.j0 + static_cast<int>(threadIdx.x) / kTileK * kSegmentJ;
  const int end = m.i0 + chunk < v.ni ? m.i0 + chunk : v.ni;
  if (weight) weight += (first_volume + m.volume) / per_weight * v.ni * plane;
  float sums[Plane::kShare][5] = {}, total = 0;

  const auto add = [&](int i, float sign) {  // planes outside the image hold zeros, less the shifts
    if (i < 0 || i >= v.ni) {
#pragma unroll
      for (int n = 0; n < Plane::kShare; ++n) {
        sums[n][0] -= sign * shift_a;
        sums[n][1] -= sign * shift_b;
        sums[n][2] += sign * shift_a * shift_a;
        sums[n][3] += sign * shift_b * shift_b;
        sums[n][4] += sign * shift_a * shift_b;
      }
      return;
    }
    as_stored(v.a, v.stored, [&](auto* a) {
      add_products<W>(sums, share, a + first + i * plane, static_cast<decltype(a)>(v.b) + first + i * plane, shift_a, shift_b, sign);
    });
  };

  for (int i = m.i0 - wi / 2; i < m.i0 + wi / 2; ++i) add(i, 1.0f);
  for (int i = m.i0; i < end; ++i) {
    add(i + wi / 2, 1.0f);
#pragma unroll
    for (int n = 0; n < Plane::kShare; ++n) {
      const int place = share.place(n);
      if (place < 0) continue;
#pragma unroll
      for (int field = 0; field < 5; ++field) loaded[field * Plane::kLoaded + place] = sums[n][field];
    }
    float box[5][kSegmentJ];
    plane_boxes<W, 5>(loaded, summed, box);
#pragma unroll
    for (int n = 0; n < kSegmentJ; ++n) {
      if (j + n >= v.nj || k >= v.nk) continue;
      const int64_t in_volume = i * plane + static_cast<int64_t>(j + n) * v.nk + k, at = first + in_volume;
      const float w = weight ? weight[in_volume] : 1.0f;
      const LnccTerms<float> terms = lncc_terms(box[0][n], box[1][n], box[2][n], box[3][n], box[4][n], inverse_n, eps, w);
      total += w * terms.ncc;
      if (map) put(map, v.stored, at, terms.ncc);
      if (adjoints) {
        adjoints[at] = terms.cross;
        adjoints[between + at] = terms.square_a;
        adjoints[2 * between + at] = terms.linear_a;
        if (both) {
          adjoints[3 * between + at] = terms.square_b;
          adjoints[4 * between + at] = terms.linear_b;
        }
      }
    }
    add(i - wi / 2, -1.0f);
  }

  // The block's sum, in an order that is always the same.
  __syncthreads();
  loaded[threadIdx.x] = total;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) loaded[threadIdx.x] += loaded[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) partials[blockIdx.x] = loaded[0];
}

// What image a is a warp of, for a gradient that goes on to the displacement: volumes of one channel.
struct Warped {
  const float *moving, *u;
  float* by_u;
  Extent size;  // of the moving image
  int dims;
  Padding padding;
  float fill;
};

// g times the moving image's slope at x + u(x), for the voxel (i, j, k) of a volume, which lies `at` in it. Nothing is chosen at run time but
// for all threads alike, and the sweep before it is compiled once.
__device__ __forceinline__ void to_displacement(const Warped& w, float g, int64_t volume, int64_t voxels, int64_t at, int i, int j, int k) {
  const auto slopes = [&](auto dims, auto padding) {
    constexpr int D = dims.value;
    const int64_t first = volume * D * voxels + at;
    float c[3], by[D] = {};
    displaced<D>(w.u, first, voxels, i, j, k, c);
    const Cells<D, static_cast<Padding>(padding.value), float> around(c, w.size);
    around.add_slopes(around.read(w.moving + volume * w.size.voxels(), w.fill), g, by);
#pragma unroll
    for (int d = 0; d < D; ++d) w.by_u[first + d * voxels] = by[d];
  };
  const auto padded = [&](auto dims) {
    if (w.padding == Padding::zeros) slopes(dims, std::integral_constant<int, 0>());
    else if (w.padding == Padding::border) slopes(dims, std::integral_constant<int, 1>());
    else slopes(dims, std::integral_constant<int, 2>());
  };
  w.dims == 3 ? padded(std::integral_constant<int, 3>()) : padded(std::integral_constant<int, 2>());
}

// of_warp: the gradient by a goes on to the displacement that made it.
template <int W, int kFields, bool of_warp>
__global__ void __launch_bounds__(kThreads, blocks_per_sm(W, kFields)) gradient(Volumes v, const float* __restrict__ shifts_a, const float* __restrict__ shifts_b, int wi, int chunk, const float* __restrict__ adjoints, int64_t between, const float* __restrict__ scale, void* __restrict__ grad_a, void* __restrict__ grad_b, StoredAs as, Warped warped) {
  using Plane = PlaneTile<W>;
  float* loaded = dynamic_shared<float>();
  float* summed = loaded + kFields * Plane::kLoaded;
  const March m = march_here(v.ni, v.nj, v.nk, chunk);
  const Share<W> share(m, v.nj, v.nk);
  const int64_t plane = static_cast<int64_t>(v.nj) * v.nk, first = m.volume * v.ni * plane;
  const float shift_a = shifts_a[m.volume], shift_b = shifts_b[m.volume], factor = *scale;
  const int k = m.k0 + static_cast<int>(threadIdx.x) % kTileK, j = m.j0 + static_cast<int>(threadIdx.x) / kTileK * kSegmentJ;
  const int end = m.i0 + chunk < v.ni ? m.i0 + chunk : v.ni;
  double sums[Plane::kShare][kFields] = {};

  const auto add = [&](int i, double sign) {
    if (i < 0 || i >= v.ni) return;
    float x[Plane::kShare][kFields];
#pragma unroll
    for (int n = 0; n < Plane::kShare; ++n)
#pragma unroll
      for (int field = 0; field < kFields; ++field) x[n][field] = share.at[n] >= 0 ? adjoints[field * between + first + i * plane + share.at[n]] : 0.0f;
#pragma unroll
    for (int n = 0; n < Plane::kShare; ++n)
#pragma unroll
      for (int field = 0; field < kFields; ++field) sums[n][field] += sign * static_cast<double>(x[n][field]);
  };

  for (int i = m.i0 - wi / 2; i < m.i0 + wi / 2; ++i) add(i, 1.0);
  for (int i = m.i0; i < end; ++i) {
    add(i + wi / 2, 1.0);
#pragma unroll
    for (int n = 0; n < Plane::kShare; ++n) {
      const int place = share.place(n);
      if (place < 0) continue;
#pragma unroll
      for (int field = 0; field < kFields; ++field) loaded[field * Plane::kLoaded + place] = static_cast<float>(sums[n][field]);
    }
    float box[kFields][kSegmentJ];
    plane_boxes<W, kFields>(loaded, summed, box);
#pragma unroll
    for (int n = 0; n < kSegmentJ; ++n) {
      if (j + n >= v.nj || k >= v.nk) continue;
      const int64_t in_volume = i * plane + static_cast<int64_t>(j + n) * v.nk + k, at = first + in_volume;
      float x = 0, y = 0;
      as_stored(v.a, v.stored, [&](auto* a) { x = load(a[at]) - shift_a, y = load(static_cast<decltype(a)>(v.b)[at]) - shift_b; });
      const float by_a = factor * regkit::lncc_gradient(x, y, box[0][n], box[1][n], box[2][n]);
      if constexpr (of_warp) to_displacement(warped, by_a, m.volume, v.ni * plane, in_volume, i, j + n, k);
      else put(grad_a, as, at, by_a);
      if constexpr (kFields == 5) put(grad_b, as, at, factor * regkit::lncc_gradient(y, x, box[0][n], box[3][n], box[4][n]));
    }
    add(i - wi / 2, -1.0);
  }
}

using Windows = std::integer_sequence<int, 3, 5, 7, 9, 11, 13, 15>;

// Long chunks waste few planes on their first window; short ones make enough blocks of a small volume.
int chunk_of(const LnccCall& c) {
  const int64_t columns = c.volumes * ceil_div<int64_t>(c.size[1], kTileJ) * ceil_div<int64_t>(c.size[2], kTileK);
  return columns * ceil_div<int64_t>(c.size[0], 2 * kChunk) >= kResidentBlocks ? 2 * kChunk : kChunk;
}

Volumes volumes(const LnccCall& c) {
  return {c.a, c.b, c.stored, static_cast<int>(c.size[0]), static_cast<int>(c.size[1]), static_cast<int>(c.size[2])};
}

int64_t total_voxels(const LnccCall& c) { return c.volumes * c.size[0] * c.size[1] * c.size[2]; }

}  // namespace

int64_t lncc_blocks(const LnccCall& c) {
  return c.volumes * ceil_div<int64_t>(c.size[0], chunk_of(c)) * ceil_div<int64_t>(c.size[1], kTileJ) * ceil_div<int64_t>(c.size[2], kTileK);
}

void lncc_windows(const LnccCall& c, float* partials, void* map, float* adjoints, bool both, Stream stream) {
  choose(c.window, Windows(), [&](auto w) {
    launch(windows<w.value>, lncc_blocks(c), dim3(kThreads), PlaneTile<w.value>::shared_bytes(5), stream,
           volumes(c), c.shifts_a, c.shifts_b, c.weight, c.first_volume, c.volumes_per_weight, c.window_i, c.eps, chunk_of(c), partials, map, adjoints, total_voxels(c), both);
  });
}

void lncc_gradient(const LnccCall& c, const float* adjoints, bool both, const float* scale, void* grad_a, void* grad_b, StoredAs as, Stream stream) {
  choose(c.window, Windows(), [&](auto w) {
    const auto go = [&](auto fields) {
      launch(gradient<w.value, fields.value, false>, lncc_blocks(c), dim3(kThreads), PlaneTile<w.value>::shared_bytes(fields.value), stream,
             volumes(c), c.shifts_a, c.shifts_b, c.window_i, chunk_of(c), adjoints, total_voxels(c), scale, grad_a, grad_b, as, Warped{});
    };
    both ? go(std::integral_constant<int, 5>()) : go(std::integral_constant<int, 3>());
  });
}

void lncc_gradient_of_warp(const LnccCall& c, const float* adjoints, const float* scale, const LnccWarp& w, Stream stream) {
  const Warped warped{w.moving, w.u, w.by_u, extent(w.size), w.dims, static_cast<Padding>(w.padding), w.fill};
  choose(c.window, Windows(), [&](auto width) {
    launch(gradient<width.value, 3, true>, lncc_blocks(c), dim3(kThreads), PlaneTile<width.value>::shared_bytes(3), stream,
           volumes(c), c.shifts_a, c.shifts_b, c.window_i, chunk_of(c), adjoints, total_voxels(c), scale, nullptr, nullptr, StoredAs::float32, warped);
  });
}

}  // namespace regkit::cuda
