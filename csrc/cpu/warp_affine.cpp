// Warp by an affine on the CPU. Bytes a voxel (float32, one channel): 4 (image, cached) + 4 (out) = 8; a label of one byte: 2.
//
// Of a row (warp_affine_rows.h) what is outside is filled, and what is inside the image comes from warp_interior.h; some voxels in between, at the
// image's faces, take a path with all the conditions. Where the row lies along a row of the image, as for a crop, the 2^(D-1) rows of cells around
// it are blended into one first, and all that is left is along that.
#include "warp_affine.h"

#include <limits>
#include <vector>

#include "cpu/pages.h"
#include "cpu/warp_affine_rows.h"

namespace regkit {
namespace {

constexpr int64_t kSteepest = 4 * kVoxel;  // a row that steps over more cells would blend too many of them

template <int D, class T>
struct EdgeBlock {
  alignas(64) int32_t cell[2][D][kLanes];  // -1: fill
  alignas(64) T upper[D][kLanes];
};

template <int D, Padding padding, class T>
void locate_edge(EdgeBlock<D, T>& block, const AffineRow<D>& row, int64_t k, const int64_t (&size)[D]) {
  Words words[D];
  locate(words, row, k);
  for (int d = 0; d < D; ++d) {
    for (int l = 0; l < kLanes; ++l) {
      const AffineCells<T> cells = affine_cells<padding, T>(words[d].base[l], words[d].rest[l], static_cast<int32_t>(size[d]));
      block.cell[0][d][l] = cells.low;
      block.cell[1][d][l] = cells.high;
      block.upper[d][l] = cells.upper;
    }
  }
}

template <int D, class T>
void locate_edge(EdgeBlock<D, T>& block, const AffineRow<D>& row, int64_t k, const int64_t (&size)[D], Padding padding) {
  if (padding == Padding::zeros) locate_edge<D, Padding::zeros>(block, row, k, size);
  else if (padding == Padding::border) locate_edge<D, Padding::border>(block, row, k, size);
  else locate_edge<D, Padding::extent>(block, row, k, size);
}

// A row of cells at a time, as in warp_block.h. Of the cells only those of the first `lanes` are loaded: mostly there are few.
template <class Index, int D, class Stored, class T>
void value_edge(const EdgeBlock<D, T>& block, const Stored* channel, const int64_t (&size)[D], int lanes, T fill, T* value) {
  std::fill_n(value, kLanes, T(0));
  const T* upper_k = block.upper[D - 1];
  for (int rows = 0; rows < (1 << (D - 1)); ++rows) {
    alignas(64) Index base[kLanes] = {};
    alignas(64) int32_t outside[kLanes] = {};  // negative there
    alignas(64) T weight[kLanes], low[kLanes] = {}, high[kLanes] = {};
    std::fill_n(weight, kLanes, T(1));
    for (int d = 0; d < D - 1; ++d) {
      const int which = rows >> (D - 2 - d) & 1;
      const int32_t* cell = block.cell[which][d];
      const T* upper = block.upper[d];
      const Index n = static_cast<Index>(size[d + 1]);
      for (int l = 0; l < kLanes; ++l) {
        base[l] = (base[l] + cell[l]) * n;
        outside[l] |= cell[l];
        weight[l] *= which ? upper[l] : 1 - upper[l];
      }
    }
    const auto cells = [&](const int32_t* cell, T* found) __attribute__((always_inline)) {
      for (int l = 0; l < lanes; ++l) {
        const bool inside = (outside[l] | cell[l]) >= 0;
        const T v = load(channel[inside ? base[l] + cell[l] : 0]);
        found[l] = inside ? v : fill;
      }
    };
    cells(block.cell[0][D - 1], low);
    cells(block.cell[1][D - 1], high);
    for (int l = 0; l < kLanes; ++l) value[l] += weight[l] * ((1 - upper_k[l]) * low[l] + upper_k[l] * high[l]);
  }
}

template <int D, class Index, class Stored, class T = arithmetic<Stored>>
class AffineSampler {
 public:
  AffineSampler(const Stored* image, Stored* out, const WarpSizes& s, Padding padding, T fill) : image_(image), out_(out), s_(s), padding_(padding), fill_(fill) {
    std::copy_n(s.image + 3 - D, D, size_);
  }

  void row(const Affine<D>& affine, const Row& r) {
    const int64_t n = s_.output[2];
    if (affine.unknown()) return put(r, 0, n, std::numeric_limits<T>::quiet_NaN());
    const AffineRow<D> row(affine, r);
    const Interval covered = padding_ == Padding::border ? Interval{0, n} : voxels_within(row, n, [&](int d) { return affine_covered(padding_, size_[d]); });
    Interval inside = voxels_within(row, n, [&](int d) { return affine_interior(size_[d]); });
    if (inside.end - inside.begin < kLanes) inside = {covered.end, covered.end};
    put(r, 0, covered.begin, fill_);
    for (int64_t k = covered.begin; k < inside.begin; k += kLanes) edge(row, r, k, std::min(k + kLanes, inside.begin));
    if (inside.begin < inside.end && affine.straight() && std::abs(affine.step()) <= kSteepest) {
      straight(row, r, inside);
    } else {
      for (int64_t k = inside.begin; k < inside.end; k += kLanes) interior(row, r, std::min(k, inside.end - kLanes));  // the last ones twice
    }
    for (int64_t k = inside.end; k < covered.end; k += kLanes) edge(row, r, k, std::min(k + kLanes, covered.end));
    put(r, covered.end, n, fill_);
  }

 private:
  static constexpr int kLine = 64 / sizeof(Stored);

  // A cell that the next plane reads as the first to do so. Rows are short, and tilted ones enter lines of memory in an order that no hardware
  // foresees: waiting for memory would be half of the time.
  static void fetch(const Stored* channel, int64_t cell) {  // which may lie outside the image: no harm
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(channel) + cell * static_cast<int64_t>(sizeof(Stored))));
  }

  const Stored* channel(const Row& r, int64_t c) const { return image_ + (r.b * s_.channels + c) * s_.image_voxels(); }
  Stored* target(const Row& r, int64_t c) const { return out_ + (r.b * s_.channels + c) * s_.output_voxels() + r.offset; }

  void put(const Row& r, int64_t begin, int64_t end, T value) {
    for (int64_t c = 0; c < s_.channels; ++c) std::fill(target(r, c) + begin, target(r, c) + end, store<Stored>(value));
  }

  void interior(const AffineRow<D>& row, const Row& r, int64_t k) {
    InteriorBlock<D, kLanes, Index, T> block;
    InteriorCells<D, kLanes, T> cells;
    alignas(64) T value[kLanes];
    Words words[D];
    locate(words, row, k);
    interior_offsets(words, size_, block.offset);
    for (int d = 0; d < D; ++d)
      for (int l = 0; l < kLanes; ++l) block.f[d][l] = affine_fraction<T>(words[d].rest[l]);
    for (int64_t c = 0; c < s_.channels; ++c) {
      if constexpr (D == 3)
        for (int l = 0; l < kLanes; l += kLanes / 4) fetch(channel(r, c), block.offset[l] + row.affine.next);
      load_interior(block, channel(r, c), size_, cells);
      value_interior(block, cells, value);
      for (int l = 0; l < kLanes; l += kLaneCount<T>) store_from_lanes(target(r, c) + k + l, load_lanes(value + l));
    }
  }

  // The rows of cells around this row blended into one, and that sampled.
  void straight(const AffineRow<D>& row, const Row& r, const Interval& inside) {
    constexpr int L = kLaneCount<T>, rows = 1 << (D - 1);
    const int k_axis = D - 1;
    const int32_t one = affine_base(row.at(k_axis, inside.begin)), other = affine_base(row.at(k_axis, inside.end - 1));
    const int32_t first = std::min(one, other), cells = std::max(one, other) + 2 - first;
    int64_t offset[rows];
    T weight[rows];
    for (int which = 0; which < rows; ++which) {
      offset[which] = 0, weight[which] = 1;
      for (int d = 0; d < k_axis; ++d) {
        const int upper = which >> (k_axis - 1 - d) & 1;
        const T f = affine_fraction<T>(static_cast<uint32_t>(row.at(d, 0)));
        offset[which] = offset[which] * size_[d] + affine_base(row.at(d, 0)) + upper;
        weight[which] *= upper ? f : 1 - f;
      }
      offset[which] = offset[which] * size_[k_axis] + first;
    }
    blended_.resize(cells);
    const T f = affine_fraction<T>(static_cast<uint32_t>(row.at(k_axis, inside.begin)));
    for (int64_t c = 0; c < s_.channels; ++c) {
      if constexpr (D == 3)
        for (int32_t m = 0; m < cells; m += kLine) fetch(channel(r, c), offset[0] + m + row.affine.next);
      blend(channel(r, c), offset, weight, cells);
      for (int64_t at = inside.begin; at < inside.end; at += kLanes) {
        const int64_t k = std::min(at, inside.end - kLanes);
        alignas(64) T low[kLanes], high[kLanes], upper[kLanes];
        if (row.affine.step() == kVoxel) {  // one cell a voxel, and all at the same distance
          const T* cell = blended_.data() + (k - inside.begin);
          for (int l = 0; l < kLanes; ++l) low[l] = cell[l], high[l] = cell[l + 1], upper[l] = f;
        } else {
          Words words;
          alignas(64) int32_t cell[kLanes];
          split(row.at(k_axis, k), row.affine.ahead[k_axis], words, std::make_index_sequence<kVectorBytes / sizeof(uint32_t)>{});
          for (int l = 0; l < kLanes; ++l) cell[l] = words.base[l] - first, upper[l] = affine_fraction<T>(words.rest[l]);
          for (int l = 0; l < kLanes; l += L) load_pairs(blended_.data(), cell + l, low + l, high + l, std::make_index_sequence<L / 2>{});
        }
        for (int l = 0; l < kLanes; ++l) low[l] = (1 - upper[l]) * low[l] + upper[l] * high[l];
        for (int l = 0; l < kLanes; l += L) store_from_lanes(target(r, c) + k + l, load_lanes(low + l));
      }
    }
  }

  template <size_t rows>
  void blend(const Stored* channel, const int64_t (&offset)[rows], const T (&weight)[rows], int64_t cells) {
    constexpr int L = kLaneCount<T>;
    int64_t m = 0;
    for (; m + L <= cells; m += L) {
      Lanes<T> sum = weight[0] * load_as_lanes(channel + offset[0] + m);
      for (size_t which = 1; which < rows; ++which) sum += weight[which] * load_as_lanes(channel + offset[which] + m);
      store_lanes(blended_.data() + m, sum);
    }
    for (; m < cells; ++m) {
      T sum = weight[0] * load(channel[offset[0] + m]);
      for (size_t which = 1; which < rows; ++which) sum += weight[which] * load(channel[offset[which] + m]);
      blended_[m] = sum;
    }
  }

  // Voxels [begin, end), not more than kLanes, of which some cells may be outside.
  void edge(const AffineRow<D>& row, const Row& r, int64_t begin, int64_t end) {
    EdgeBlock<D, T> block;
    alignas(64) T value[kLanes];
    locate_edge(block, row, begin, size_, padding_);
    for (int64_t c = 0; c < s_.channels; ++c) {
      value_edge<Index>(block, channel(r, c), size_, static_cast<int>(end - begin), fill_, value);
      for (int64_t k = begin; k < end; ++k) target(r, c)[k] = store<Stored>(value[k - begin]);
    }
  }

  const Stored* image_;
  Stored* out_;
  const WarpSizes& s_;
  const Padding padding_;
  const T fill_;
  int64_t size_[D];
  std::vector<T> blended_;
};

template <int D, class Index, class Element>
void nearest_row(const Affine<D>& affine, const Row& r, const Element* labels, Element* out, const WarpSizes& s, bool border) {
  int64_t size[D];
  std::copy_n(s.image + 3 - D, D, size);
  const int64_t n = s.output[2];
  const AffineRow<D> row(affine, r, kVoxel / 2);
  const Interval inside = voxels_within(row, n, [&](int d) { return AffineSpan{0, size[d] * kVoxel - 1}; });
  const auto outside = [&](const Element* channel, int64_t k) {
    int64_t offset = 0;
    for (int d = 0; d < D; ++d) offset = offset * size[d] + std::clamp<int64_t>(affine_base(row.at(d, k)), 0, size[d] - 1);
    return border ? channel[offset] : Element(0);
  };
  for (int64_t c = 0; c < s.channels; ++c) {
    const Element* channel = labels + (r.b * s.channels + c) * s.image_voxels();
    Element* target = out + (r.b * s.channels + c) * s.output_voxels() + r.offset;
    for (int64_t k = 0; k < inside.begin; ++k) target[k] = outside(channel, k);
    if (inside.begin < inside.end && affine.straight() && affine.step() == kVoxel) {
      int64_t offset = 0;
      for (int d = 0; d < D; ++d) offset = offset * size[d] + affine_base(row.at(d, inside.begin));
      std::copy_n(channel + offset, inside.end - inside.begin, target + inside.begin);
    } else {
      for (int64_t k = inside.begin; k < inside.end; k += kLanes) {
        alignas(64) Index offset[kLanes];
        Words words[D];
        locate(words, row, k);
        interior_offsets(words, size, offset);
        if (inside.end - k >= kLanes) {
          for (int l = 0; l < kLanes; ++l) target[k + l] = channel[offset[l]];
        } else {
          for (int l = 0; l < inside.end - k; ++l) target[k + l] = channel[offset[l]];
        }
      }
    }
    for (int64_t k = inside.end; k < n; ++k) target[k] = outside(channel, k);
  }
}

}  // namespace

template <class Stored, class T>
void warp_affine(const Stored* image, const double* matrix, Stored* out, const WarpSizes& s, int padding, T fill, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  for_dims_and_index(s, [&](auto dims, auto index) {
    const auto items = affines<dims.value>(matrix, s);
    for_rows_in_tiles(s, threads, [&] {
      AffineSampler<dims.value, decltype(index), Stored> sampler(image, out, s, static_cast<Padding>(padding), fill);
      return [&items, sampler](const Row& row) mutable { sampler.row(items[row.b], row); };
    });
  });
}

template <class Element>
void warp_affine_nearest(const Element* labels, const double* matrix, Element* out, const WarpSizes& s, int padding, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  for_dims_and_index(s, [&](auto dims, auto index) {
    const auto items = affines<dims.value>(matrix, s);
    for_rows_in_tiles(s, threads, [&] {
      return [&](const Row& row) { nearest_row<dims.value, decltype(index)>(items[row.b], row, labels, out, s, static_cast<Padding>(padding) == Padding::border); };
    });
  });
}

#define REGKIT_INSTANTIATE(S) template void warp_affine(const S*, const double*, S*, const WarpSizes&, int, arithmetic<S>, int);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE
template void warp_affine_nearest(const uint8_t*, const double*, uint8_t*, const WarpSizes&, int, int);
template void warp_affine_nearest(const uint16_t*, const double*, uint16_t*, const WarpSizes&, int, int);
template void warp_affine_nearest(const uint32_t*, const double*, uint32_t*, const WarpSizes&, int, int);
template void warp_affine_nearest(const uint64_t*, const double*, uint64_t*, const WarpSizes&, int, int);

}  // namespace regkit
