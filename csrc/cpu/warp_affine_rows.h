// The rows that a warp by an affine samples: where they are, and which of their voxels see the image.
//
// Positions along a row are an arithmetic progression. So its voxels that see fill alone, and those whose cells are all in the image, are one
// interval each, found by a division; and positions are one addition an axis, whole numbers as core/warp_affine.h says.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>

#include "core/warp_affine.h"
#include "cpu/convert.h"
#include "cpu/parallel.h"
#include "cpu/warp_block.h"

namespace regkit {

constexpr int64_t kTileRows = 16, kTilePlanes = 32;  // of a job

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
  int64_t step() const { return linear[D - 1][D - 1]; }
  // Whether each row of the result lies along one row of the image: crops, pads, flips, changes of spacing.
  bool straight() const {
    for (int d = 0; d < D - 1; ++d)
      if (linear[d][D - 1] != 0) return false;
    return true;
  }
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

// Jobs are tiles of some rows, plane after plane: of the cells that a plane's rows read half are those that the plane before has read, and
// are in the cache still. make() gives a job's own function of a row.
template <class Make>
void for_rows_in_tiles(const WarpSizes& s, int threads, Make&& make) {
  const Chunks rows{s.output[1], kTileRows}, planes{s.output[0], kTilePlanes};
  parallel_for(s.batch * planes.count() * rows.count(), threads, [&](int64_t job) {
    const int64_t tile = job % rows.count(), slab = job / rows.count() % planes.count(), b = job / (rows.count() * planes.count());
    auto&& call = make();
    for (int64_t i = planes.begin(slab); i < planes.end(slab); ++i)
      for (int64_t j = rows.begin(tile); j < rows.end(tile); ++j) call(Row{b, i, j, (i * s.output[1] + j) * s.output[2]});
  });
}

}  // namespace regkit
