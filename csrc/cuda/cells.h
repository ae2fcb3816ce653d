// A sample of an image: where it lies, the cells around it and their weights (core/warp.h), then a channel's value or slope.
#pragma once
#include "core/warp.h"
#include "cuda/tiles.h"

namespace regkit::cuda {

template <int D, Padding padding, class T>
struct Cells {
  AxisSample<T> i, j, k;
  int64_t rows[D == 3 ? 4 : 2];  // offsets of the rows of cells along (i, j)

  // c: position in voxels of the image, whose extent is m.
  __device__ __forceinline__ Cells(const T (&c)[3], const Extent& m) : j(axis_sample<padding>(c[1], m.nj)), k(axis_sample<padding>(c[2], m.nk)) {
    if constexpr (D == 3) i = axis_sample<padding>(c[0], m.ni);
    else i.low = 0;
    rows[0] = m.row(i.low, j.low);
    rows[1] = m.row(i.low, j.high);
    if constexpr (D == 3) {
      rows[2] = m.row(i.high, j.low);
      rows[3] = m.row(i.high, j.high);
    }
  }

  // A channel's cells in pairs along k, less the fill.
  template <class Stored>
  struct Pairs {
    T low[D == 3 ? 4 : 2], high[D == 3 ? 4 : 2];
  };
  template <class Stored>
  __device__ __forceinline__ Pairs<Stored> read(const Stored* __restrict__ channel, T fill) const {
    Pairs<Stored> cells;
#pragma unroll
    for (int r = 0; r < (D == 3 ? 4 : 2); ++r) {
      cells.low[r] = load(channel[rows[r] + k.low]) - fill;
      cells.high[r] = load(channel[rows[r] + k.high]) - fill;
    }
    return cells;
  }

  template <class Stored>
  __device__ __forceinline__ T value(const Pairs<Stored>& cells) const {
    const auto along = [&](int r) { return k.weight_low * cells.low[r] + k.weight_high * cells.high[r]; };
    const T lower = j.weight_low * along(0) + j.weight_high * along(1);
    if constexpr (D == 2) return lower;
    else return i.weight_low * lower + i.weight_high * (j.weight_low * along(2) + j.weight_high * along(3));
  }

  // by[d] += g * d value / d (component d of the position).
  template <class Stored>
  __device__ __forceinline__ void add_slopes(const Pairs<Stored>& cells, T g, T (&by)[D]) const {
    const auto along = [&](int r) { return k.weight_low * cells.low[r] + k.weight_high * cells.high[r]; };
    const auto step = [&](int r) { return k.slope_low * cells.low[r] + k.slope_high * cells.high[r]; };
    T slope_j = j.slope_low * along(0) + j.slope_high * along(1), slope_k = j.weight_low * step(0) + j.weight_high * step(1);
    if constexpr (D == 3) {
      const T lower = j.weight_low * along(0) + j.weight_high * along(1), upper = j.weight_low * along(2) + j.weight_high * along(3);
      by[0] += g * (i.slope_low * lower + i.slope_high * upper);
      slope_j = i.weight_low * slope_j + i.weight_high * (j.slope_low * along(2) + j.slope_high * along(3));
      slope_k = i.weight_low * slope_k + i.weight_high * (j.weight_low * step(2) + j.weight_high * step(3));
    }
    by[D - 2] += g * slope_j;
    by[D - 1] += g * slope_k;
  }
};

// The coordinates x + u(x) of a voxel; `at` is the offset of u's first component there.
template <int D, class T>
__device__ __forceinline__ void displaced(const T* __restrict__ u, int64_t at, int64_t voxels, int i, int j, int k, T (&c)[3]) {
  c[0] = D == 3 ? static_cast<T>(i) + u[at] : T(0);
  c[1] = static_cast<T>(j) + u[at + (D - 2) * voxels];
  c[2] = static_cast<T>(k) + u[at + (D - 1) * voxels];
}

// f(dims, padding) of an image's number of axes and its padding, both as constants.
template <class F>
void for_axes_and_padding(int dims, int padding, F&& f) {
  choose(dims, std::integer_sequence<int, 2, 3>(), [&](auto d) { choose(padding, std::integer_sequence<int, 0, 1, 2>(), [&](auto pad) { f(d, pad); }); });
}

}  // namespace regkit::cuda
