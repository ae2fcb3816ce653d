// What every warp kernel does with a block of kLanes samples along k: find the cells around them, and compute values and slopes (derivatives by
// the displacement) from those.
//
// Each step is a loop over lanes of fixed length without branches, which the compiler turns into vector code and gathers for the instruction set
// that the file is compiled for. Blocks that lie inside the image, nearly all, take the path of warp_interior.h.
#pragma once
#include <algorithm>

#include "core/warp.h"
#include "cpu/warp.h"
#include "cpu/storage.h"
#include "cpu/warp_interior.h"

namespace regkit {

constexpr int kLanes = 16;

struct Row {
  int64_t b, i, j, offset;  // offset of the row's first voxel within one channel
};

inline Row row_at(const WarpSizes& s, int64_t row) {
  const int64_t rows = s.output[0] * s.output[1];
  const int64_t r = row % rows;
  return {row / rows, r / s.output[1], r % s.output[1], r * s.output[2]};
}

// What a block reads where some samples are not inside: per axis two valid indices, weights and slopes.
template <int D, class T>
struct Block {
  alignas(64) int32_t low[D][kLanes], high[D][kLanes];
  alignas(64) T weight_low[D][kLanes], weight_high[D][kLanes], slope_low[D][kLanes], slope_high[D][kLanes];
};

// `u` is the displacement of one batch item; its components are `voxels` apart.
template <int D, Padding padding, class T>
[[gnu::noinline]] void locate(Block<D, T>& block, const T* u, int64_t voxels, const Row& row, int64_t k0, int lanes, const WarpSizes& s) {
  const T origin[3] = {T(row.i), T(row.j), T(k0)};
  for (int d = 0; d < D; ++d) {
    const int axis = d + 3 - D;
    const T* ud = u + d * voxels + row.offset + k0;
    const int32_t n = static_cast<int32_t>(s.image[axis]);
    alignas(64) T c[kLanes];
    if (lanes == kLanes) {
      for (int l = 0; l < kLanes; ++l) c[l] = ud[l];
    } else {
      for (int l = 0; l < kLanes; ++l) c[l] = l < lanes ? ud[l] : T(0);
    }
    if (axis == 2)
      for (int l = 0; l < kLanes; ++l) c[l] += static_cast<T>(l);
    for (int l = 0; l < kLanes; ++l) {
      const AxisSample<T> a = axis_sample<padding>(origin[axis] + c[l], n);
      block.low[d][l] = a.low;
      block.high[d][l] = a.high;
      block.weight_low[d][l] = a.weight_low;
      block.weight_high[d][l] = a.weight_high;
      block.slope_low[d][l] = a.slope_low;
      block.slope_high[d][l] = a.slope_high;
    }
  }
}

// Calls visit(corner_i, corner_j, low, high) for the 2 (2-D) or 4 (3-D) rows of cells around the block; low and high are the cells' values less
// `fill`, so that the weights that are zero outside the image leave fill.
template <class Index, int D, class T, class Stored, class Visit>
inline void for_rows(const Block<D, T>& block, const WarpSizes& s, const Stored* channel, T fill, Visit&& visit) {
  const Index stride_j = static_cast<Index>(s.image[2]), stride_i = static_cast<Index>(s.image[1] * s.image[2]);
  for (int corner = 0; corner < (D == 3 ? 4 : 2); ++corner) {
    alignas(64) Index base[kLanes];
    alignas(64) T low[kLanes], high[kLanes];
    const int ci = corner >> 1, cj = corner & 1;
    const int32_t* row_j = cj ? block.high[D - 2] : block.low[D - 2];
    if constexpr (D == 3) {
      const int32_t* row_i = ci ? block.high[0] : block.low[0];
      for (int l = 0; l < kLanes; ++l) base[l] = static_cast<Index>(row_i[l]) * stride_i + static_cast<Index>(row_j[l]) * stride_j;
    } else {
      for (int l = 0; l < kLanes; ++l) base[l] = static_cast<Index>(row_j[l]) * stride_j;
    }
    for (int l = 0; l < kLanes; ++l) {
      low[l] = load(channel[base[l] + block.low[D - 1][l]]) - fill;
      high[l] = load(channel[base[l] + block.high[D - 1][l]]) - fill;
    }
    visit(ci, cj, low, high);
  }
}

template <int D, class T>
inline const T* pick(const T (&low)[D][kLanes], const T (&high)[D][kLanes], int d, int upper) {
  return upper ? high[d] : low[d];
}

// Samples of kLanes voxels of one row: locate once, then sample any number of channels. The padding makes a difference to blocks at the border
// alone, so it is not a template parameter: a third of the code to compile.
template <int D, class Index, class T>
class WarpBlock {
 public:
  WarpBlock(const WarpSizes& sizes, int padding) : s_(sizes), padding_(static_cast<Padding>(padding)) { std::copy_n(sizes.image + 3 - D, D, size_); }

  // `u`: the displacement of the row's batch item. The first `lanes` of the block are in use.
  void locate(const T* u, const Row& row, int64_t k0, int lanes) {
    const int64_t voxels = s_.output_voxels();
    const T origin[3] = {T(row.i), T(row.j), T(k0)};
    const T *axes[D], *first = u + row.offset + k0;
    T origins[D];
    for (int d = 0; d < D; ++d) axes[d] = first + d * voxels, origins[d] = origin[d + 3 - D];
    inside_ = lanes == kLanes && locate_interior(interior_, axes, origins, size_);
    if (inside_) return;
    if (padding_ == Padding::zeros) regkit::locate<D, Padding::zeros>(block_, u, voxels, row, k0, lanes, s_);
    else if (padding_ == Padding::border) regkit::locate<D, Padding::border>(block_, u, voxels, row, k0, lanes, s_);
    else regkit::locate<D, Padding::extent>(block_, u, voxels, row, k0, lanes, s_);
  }

  // value = image(x + u(x)), slope[d] = its derivative by component d of u; each only if wanted (slope may be null then).
  template <bool want_value, bool want_slope, class Stored>
  void sample(const Stored* channel, T fill, T* value, T (*slope)[kLanes]) const {
    if (inside_) {
      InteriorCells<D, kLanes, T> cells;
      load_interior(interior_, channel, size_, cells);
      if constexpr (want_value) value_interior(interior_, cells, value);
      if constexpr (want_slope) slope_interior(interior_, cells, slope);
      return;
    }
    if constexpr (want_value) std::fill_n(value, kLanes, T(0));
    if constexpr (want_slope) for (int d = 0; d < D; ++d) std::fill_n(slope[d], kLanes, T(0));
    const auto& b = block_;
    for_rows<Index>(b, s_, channel, fill, [&](int ci, int cj, const T* low, const T* high) {
      const T *wj = pick<D>(b.weight_low, b.weight_high, D - 2, cj), *sj = pick<D>(b.slope_low, b.slope_high, D - 2, cj);
      const T *wi = pick<D>(b.weight_low, b.weight_high, 0, ci), *si = pick<D>(b.slope_low, b.slope_high, 0, ci);
      for (int l = 0; l < kLanes; ++l) {
        const T across = b.weight_low[D - 1][l] * low[l] + b.weight_high[D - 1][l] * high[l];
        if constexpr (want_value) value[l] += (D == 3 ? wi[l] * wj[l] : wj[l]) * across;
        if constexpr (want_slope) {
          const T along = b.slope_low[D - 1][l] * low[l] + b.slope_high[D - 1][l] * high[l];
          if constexpr (D == 3) {
            slope[0][l] += si[l] * wj[l] * across;
            slope[1][l] += wi[l] * sj[l] * across;
            slope[2][l] += wi[l] * wj[l] * along;
          } else {
            slope[0][l] += sj[l] * across;
            slope[1][l] += wj[l] * along;
          }
        }
      }
    });
    if constexpr (want_value) for (int l = 0; l < kLanes; ++l) value[l] += fill;
  }

 private:
  const WarpSizes& s_;
  const Padding padding_;
  int64_t size_[D];
  bool inside_ = false;
  Block<D, T> block_;
  InteriorBlock<D, kLanes, Index, T> interior_;
};

// Calls call(D, index type) as compile-time constants. Offsets within a channel fit 32 bits up to 2^31 voxels.
template <class Call>
void for_dims_and_index(const WarpSizes& s, Call&& call) {
  const auto by_index = [&](auto dims) {
    if (s.image_voxels() >= (int64_t(1) << 31)) call(dims, int64_t{});
    else call(dims, int32_t{});
  };
  if (s.dims == 3) by_index(std::integral_constant<int, 3>{});
  else by_index(std::integral_constant<int, 2>{});
}

// Calls call(D, padding) as compile-time constants.
template <class Call>
void for_dims_and_padding(const WarpSizes& s, int padding, Call&& call) {
  const auto by_dims = [&](auto pad) {
    if (s.dims == 3) call(std::integral_constant<int, 3>{}, pad);
    else call(std::integral_constant<int, 2>{}, pad);
  };
  switch (static_cast<Padding>(padding)) {
    case Padding::zeros: return by_dims(std::integral_constant<Padding, Padding::zeros>{});
    case Padding::border: return by_dims(std::integral_constant<Padding, Padding::border>{});
    case Padding::extent: return by_dims(std::integral_constant<Padding, Padding::extent>{});
  }
}

}  // namespace regkit
