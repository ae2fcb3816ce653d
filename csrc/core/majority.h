// Warping labels by majority: the label with the largest sum of linear weights over the 2^D cells around a sample.
//
// Two labels can have equal sums, and then a rounding error would decide, differently on every machine. So weights are whole numbers:
// each axis splits 2^20 between its two cells (the fraction of the coordinate, rounded to nearest), a corner has the product, and sums are
// exact. 2^60 is their total in 3-D. The smaller label wins a tie. Paddings as in core/warp.h, with `fill` as the label of what lies
// outside; a NaN coordinate is outside (border: the first cell).
#pragma once
#include <cmath>
#include <cstdint>

#include "core/inline.h"
#include "core/warp.h"

namespace regkit {

constexpr int32_t kVotes = 1 << 20;

REGKIT_INLINE int32_t upper_votes(float fraction) { return static_cast<int32_t>(std::floor(fraction * static_cast<float>(kVotes) + 0.5f)); }

// The two cells of an axis, -1 where a cell is outside; the upper one has `upper` votes, the lower one the rest of kVotes.
struct AxisVotes {
  int32_t cell[2], upper;
};

template <Padding padding>
REGKIT_INLINE AxisVotes axis_votes(float c, int32_t n) {
  const float last = static_cast<float>(n - 1);
  if constexpr (padding == Padding::zeros) {
    float x = c > -2.f ? c : -2.f;
    x = x < last + 2 ? x : last + 2;
    const float base = std::floor(x);
    const int32_t low = static_cast<int32_t>(base);
    return {{low >= 0 && low < n ? low : -1, low >= -1 && low < n - 1 ? low + 1 : -1}, upper_votes(x - base)};
  } else {
    float x = c > 0 ? c : 0.f;
    x = x < last ? x : last;
    const float base = std::floor(x);
    const int32_t low = static_cast<int32_t>(base);
    if (padding == Padding::border || (c >= -0.5f && c <= last + 0.5f)) return {{low, low + 1 < n ? low + 1 : low}, upper_votes(x - base)};
    return {{-1, -1}, 0};
  }
}

// The votes of each corner; bit d of its number is the upper cell along axis D - 1 - d.
template <int D>
REGKIT_INLINE void corner_votes(const int32_t (&upper)[D], int64_t (&votes)[1 << D]) {
  for (int corner = 0; corner < (1 << D); ++corner) {
    int64_t product = 1;
    for (int d = 0; d < D; ++d) product *= corner >> (D - 1 - d) & 1 ? upper[d] : kVotes - upper[d];
    votes[corner] = product;
  }
}

// order is the sign bit for labels of a signed type, which are kept as unsigned here, and 0 for others.
template <int corners, class Label>
REGKIT_INLINE Label majority(const Label (&label)[corners], const int64_t (&votes)[corners], Label order) {
  int64_t wide[corners], sum[corners] = {};  // labels as wide as votes, so that the sums are vector code
  for (int a = 0; a < corners; ++a) wide[a] = static_cast<int64_t>(label[a]);
  for (int b = 0; b < corners; ++b)
    for (int a = 0; a < corners; ++a) sum[a] += wide[b] == wide[a] ? votes[b] : 0;
  Label best = label[0];
  int64_t most = sum[0];
  for (int a = 1; a < corners; ++a) {
    const bool better = sum[a] > most || (sum[a] == most && static_cast<Label>(label[a] ^ order) < static_cast<Label>(best ^ order));
    best = better ? label[a] : best;
    most = better ? sum[a] : most;
  }
  return best;
}

}  // namespace regkit
