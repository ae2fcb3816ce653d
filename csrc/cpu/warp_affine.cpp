// Warp by an affine on the CPU. Bytes a voxel (float32, one channel): 4 (image, cached) + 4 (out) = 8; a label of one byte: 2.
//
// Positions along a row are an arithmetic progression. So the voxels of a row that see fill alone, and those whose cells are all in the image, are
// one interval each, found by a division; what is between them, some voxels at the image's faces, takes a path with all the conditions. Inside,
// positions are one addition an axis, and values come from warp_interior.h.
#include "warp_affine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "core/warp_affine.h"
#include "cpu/convert.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "cpu/warp_block.h"

namespace regkit {
namespace {

constexpr int64_t kTileRows = 16, kTilePlanes = 32;

// One batch item's matrix in steps; what each lane is ahead of the first; 1 / step along k; and how far from the lowest cell of a voxel the cell is
// that the same voxel of the next plane reads as the first to do so, about.
template <int D>
struct Affine {
  int64_t linear[D][D], shift[D];
  uint64_t ahead[D][kLanes];
  double inverse[D];
  int64_t next = 0;

  Affine(const double* matrix, const WarpSizes& s) {
    const double limit = kReach / static_cast<double>(std::max({int64_t(1), s.output[0], s.output[1], s.output[2]}));
    const bool unknown = std::any_of(matrix, matrix + D * (D + 1), [](double x) { return x != x; });
    for (int d = 0; d < D; ++d) {
      for (int e = 0; e < D; ++e) linear[d][e] = unknown ? 0 : affine_steps(matrix[d * (D + 1) + e], limit);
      shift[d] = unknown ? kUnknown : affine_steps(matrix[d * (D + 1) + D], kShiftLimit);
      for (int l = 0; l < kLanes; ++l) ahead[d][l] = static_cast<uint64_t>(linear[d][D - 1]) * l;
      inverse[d] = 1.0 / static_cast<double>(linear[d][D - 1]);
    }
    int64_t stride = 1, most = 0, far_cell = 0;
    for (int d = D - 1; d >= 0; --d) {
      const int64_t step = linear[d][0];
      next += stride * affine_base(static_cast<uint64_t>(step + kVoxel / 2));
      if (std::abs(step) > most) most = std::abs(step), far_cell = step > 0 ? stride : 0;
      stride *= s.image[d + 3 - D];
    }
    next += far_cell;
  }
  bool unknown() const { return shift[0] == kUnknown; }
};

template <int D>
std::vector<Affine<D>> affines(const double* matrix, const WarpSizes& s) {
  std::vector<Affine<D>> items;
  for (int64_t b = 0; b < s.batch; ++b) items.emplace_back(matrix + b * D * (D + 1), s);
  return items;
}

// Positions of the voxels of one row; they wrap beyond the row's end, where lanes without a voxel may be.
template <int D>
struct AffineRow {
  const Affine<D>& affine;
  int64_t start[D];

  AffineRow(const Affine<D>& a, const Row& row, int64_t offset = 0) : affine(a) {
    for (int d = 0; d < D; ++d) {
      start[d] = a.shift[d] + a.linear[d][D - 2] * row.j + offset;
      if constexpr (D == 3) start[d] += a.linear[d][0] * row.i;
    }
  }
  uint64_t at(int d, int64_t k) const { return static_cast<uint64_t>(start[d]) + static_cast<uint64_t>(affine.linear[d][D - 1]) * k; }
};

struct Interval {
  int64_t begin, end;
};

// The least k of [0, n] with start + k step >= bound, for step > 0; n if there is none.
inline int64_t first_at_least(int64_t bound, int64_t start, int64_t step, double inverse, int64_t n) {
  const double estimate = static_cast<double>(bound - start) * inverse;  // out by less than one
  int64_t k = estimate > 0 ? (estimate < n ? static_cast<int64_t>(estimate) : n) : 0;
  while (k > 0 && start + (k - 1) * step >= bound) --k;
  while (k < n && start + k * step < bound) ++k;
  return k;
}

// The voxels of [0, n) along k whose position is in the span of every axis.
template <int D, class SpanOf>
Interval voxels_within(const AffineRow<D>& row, int64_t n, SpanOf&& span_of) {
  Interval found{0, n};
  for (int d = 0; d < D; ++d) {
    const AffineSpan span = span_of(d);
    const int64_t start = row.start[d], step = row.affine.linear[d][D - 1];
    const double inverse = row.affine.inverse[d];
    if (step == 0) {
      if (start < span.first || start > span.last) return {0, 0};
    } else if (step > 0) {
      found.begin = std::max(found.begin, first_at_least(span.first, start, step, inverse, n));
      found.end = std::min(found.end, first_at_least(span.last + 1, start, step, inverse, n));
    } else {
      found.begin = std::max(found.begin, first_at_least(-span.last, -start, -step, -inverse, n));
      found.end = std::min(found.end, first_at_least(-span.first + 1, -start, -step, -inverse, n));
    }
  }
  return found.begin < found.end ? found : Interval{0, 0};
}

// The positions of a block along one axis, in their two words.
struct Words {
  alignas(64) int32_t base[kLanes];
  alignas(64) uint32_t rest[kLanes];
};

// Two registers of positions make one of upper words and one of lower words.
template <size_t... I>
REGKIT_INLINE void split(uint64_t first, const uint64_t* ahead, Words& words, std::index_sequence<I...>) {
  typedef uint64_t Wide __attribute__((vector_size(kVectorBytes)));
  constexpr int L = sizeof...(I), half = L / 2;
  for (int l = 0; l < kLanes; l += L) {
    Wide below, above;
    std::memcpy(&below, ahead + l, sizeof below);
    std::memcpy(&above, ahead + l + half, sizeof above);
    const WordLanes a = (WordLanes)(below + first), b = (WordLanes)(above + first);
    const WordLanes base = __builtin_shufflevector(a, b, (2 * static_cast<int>(I) + 1)...), rest = __builtin_shufflevector(a, b, (2 * static_cast<int>(I))...);
    std::memcpy(words.base + l, &base, sizeof base);
    std::memcpy(words.rest + l, &rest, sizeof rest);
  }
}

template <int D>
REGKIT_INLINE void locate(Words (&words)[D], const AffineRow<D>& row, int64_t k) {
  for (int d = 0; d < D; ++d) split(row.at(d, k), row.affine.ahead[d], words[d], std::make_index_sequence<kVectorBytes / sizeof(uint32_t)>{});
}

template <int D, class Index>
REGKIT_INLINE void interior_offsets(const Words (&words)[D], const int64_t (&size)[D], Index* offset) {
  for (int l = 0; l < kLanes; ++l) {
    Index at = words[0].base[l];
    for (int d = 1; d < D; ++d) at = at * static_cast<Index>(size[d]) + words[d].base[l];
    offset[l] = at;
  }
}

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

// A row of cells at a time, as in warp_block.h.
template <class Index, int D, class Stored, class T>
void value_edge(const EdgeBlock<D, T>& block, const Stored* channel, const int64_t (&size)[D], T fill, T* value) {
  std::fill_n(value, kLanes, T(0));
  const T* upper_k = block.upper[D - 1];
  for (int rows = 0; rows < (1 << (D - 1)); ++rows) {
    alignas(64) Index base[kLanes] = {};
    alignas(64) int32_t outside[kLanes] = {};  // negative there
    alignas(64) T weight[kLanes], low[kLanes], high[kLanes];
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
      for (int l = 0; l < kLanes; ++l) {
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
    for (int64_t k = inside.begin; k < inside.end; k += kLanes) interior(row, r, std::min(k, inside.end - kLanes));  // the last ones twice
    for (int64_t k = inside.end; k < covered.end; k += kLanes) edge(row, r, k, std::min(k + kLanes, covered.end));
    put(r, covered.end, n, fill_);
  }

 private:
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
      if constexpr (D == 3) fetch_next(channel(r, c), block.offset, row.affine.next);
      load_interior(block, channel(r, c), size_, cells);
      value_interior(block, cells, value);
      for (int l = 0; l < kLanes; l += kLaneCount<T>) store_from_lanes(target(r, c) + k + l, load_lanes(value + l));
    }
  }

  // Tilted rows enter lines of memory in an order that no hardware foresees: for them, waiting for memory is half of the time.
  static void fetch_next(const Stored* channel, const Index* offset, int64_t next) {
    const uintptr_t base = reinterpret_cast<uintptr_t>(channel);  // an address may lie outside the image, which is harmless here
    for (int l = 0; l < kLanes; l += 4) __builtin_prefetch(reinterpret_cast<const void*>(base + (offset[l] + next) * static_cast<int64_t>(sizeof(Stored))));
  }

  void edge(const AffineRow<D>& row, const Row& r, int64_t begin, int64_t end) {
    EdgeBlock<D, T> block;
    alignas(64) T value[kLanes];
    locate_edge(block, row, begin, size_, padding_);
    for (int64_t c = 0; c < s_.channels; ++c) {
      value_edge<Index>(block, channel(r, c), size_, fill_, value);
      for (int64_t k = begin; k < end; ++k) target(r, c)[k] = store<Stored>(value[k - begin]);
    }
  }

  const Stored* image_;
  Stored* out_;
  const WarpSizes& s_;
  const Padding padding_;
  const T fill_;
  int64_t size_[D];
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
    for (int64_t k = inside.end; k < n; ++k) target[k] = outside(channel, k);
  }
}

// Jobs are tiles of some rows, plane after plane: of the cells that a plane's rows read half are those that the plane before has read, and
// are in the cache still.
template <class Call>
void for_rows_in_tiles(const WarpSizes& s, int threads, Call&& call) {
  const Chunks rows{s.output[1], kTileRows}, planes{s.output[0], kTilePlanes};
  parallel_for(s.batch * planes.count() * rows.count(), threads, [&](int64_t job) {
    const int64_t tile = job % rows.count(), slab = job / rows.count() % planes.count(), b = job / (rows.count() * planes.count());
    for (int64_t i = planes.begin(slab); i < planes.end(slab); ++i)
      for (int64_t j = rows.begin(tile); j < rows.end(tile); ++j) call(Row{b, i, j, (i * s.output[1] + j) * s.output[2]});
  });
}

// Calls call(D, index type) as compile-time constants.
template <class Call>
void by_dims_and_index(const WarpSizes& s, Call&& call) {
  const auto by_index = [&](auto dims) {
    if (s.image_voxels() >= (int64_t(1) << 31)) call(dims, int64_t{});
    else call(dims, int32_t{});
  };
  if (s.dims == 3) by_index(std::integral_constant<int, 3>{});
  else by_index(std::integral_constant<int, 2>{});
}

}  // namespace

template <class Stored, class T>
void warp_affine(const Stored* image, const double* matrix, Stored* out, const WarpSizes& s, int padding, T fill, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  by_dims_and_index(s, [&](auto dims, auto index) {
    const auto items = affines<dims.value>(matrix, s);
    for_rows_in_tiles(s, threads, [&](const Row& row) {
      AffineSampler<dims.value, decltype(index), Stored>(image, out, s, static_cast<Padding>(padding), fill).row(items[row.b], row);
    });
  });
}

template <class Element>
void warp_affine_nearest(const Element* labels, const double* matrix, Element* out, const WarpSizes& s, int padding, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  by_dims_and_index(s, [&](auto dims, auto index) {
    const auto items = affines<dims.value>(matrix, s);
    for_rows_in_tiles(s, threads, [&](const Row& row) {
      nearest_row<dims.value, decltype(index)>(items[row.b], row, labels, out, s, static_cast<Padding>(padding) == Padding::border);
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
