// Sampling through an affine: positions, and the cells around them.
//
// Positions are whole numbers of steps of 2^-32 voxel in 64 bits, and so is the matrix, once it is rounded to them. Sums and products of whole
// numbers are exact: a position does not depend on the order of its terms, on fused multiplications or on where a row starts, and every backend
// finds the same nearest voxel, halves and all. The upper word of a position is the cell below it and the lower word the weight of the cell
// above, with no rounding function; quarter turns, whose cosines come as 6e-17, are exact. The matrix is out by at most 2^-33, a position in an
// image of a thousand voxels by a few 2^-24: float32 positions would be out by more.
//
// Range: columns of the linear part count up to 2^28 voxels over the longest axis of the result, the shift up to 2^29, larger numbers as that:
// then no position reaches 2^31 voxels. A NaN in a matrix puts every position at kUnknown, where no image reaches.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/inline.h"
#include "core/warp.h"

namespace regkit {

constexpr int64_t kVoxel = int64_t(1) << 32;  // steps
constexpr int64_t kUnknown = -(int64_t(1) << 62);
constexpr double kShiftLimit = 536870912.0, kReach = 268435456.0;  // voxels

REGKIT_INLINE int64_t affine_steps(double voxels, double limit) {
  const double x = voxels < limit ? (voxels > -limit ? voxels : -limit) : limit;
  return static_cast<int64_t>(std::floor(x * 4294967296.0 + 0.5));
}

// A position in two words: the voxel below it, and the rest in steps.
REGKIT_INLINE int32_t affine_base(uint64_t position) { return static_cast<int32_t>(position >> 32); }

// Weight of the cell above, from the lower word: float32 holds 24 bits of it.
template <class T>
REGKIT_INLINE T affine_fraction(uint32_t rest) {
  if constexpr (sizeof(T) == 4) return static_cast<T>(static_cast<int32_t>(rest >> 8)) * T(1.0 / 16777216);
  else return static_cast<T>(rest) * T(1.0 / 4294967296.0);
}

// The two cells of an axis, -1 where a cell is outside and counts as fill, and the weight of the upper one. Paddings as in core/warp.h.
template <class T>
struct AffineCells {
  int32_t low, high;
  T upper;
};

template <Padding padding, class T>
REGKIT_INLINE AffineCells<T> affine_cells(int32_t base, uint32_t rest, int32_t n) {
  constexpr uint32_t half = 1u << 31;
  if constexpr (padding == Padding::zeros) {
    return {base >= 0 && base < n ? base : -1, base >= -1 && base < n - 1 ? base + 1 : -1, affine_fraction<T>(rest)};
  } else {
    const bool below = base < 0, above = base >= n - 1;
    const int32_t low = below ? 0 : (above ? n - 1 : base), high = below ? 0 : (above ? n - 1 : base + 1);
    const bool covered = padding == Padding::border || ((base >= 0 || (base == -1 && rest >= half)) && (base < n - 1 || (base == n - 1 && rest <= half)));
    return {covered ? low : -1, covered ? high : -1, below || above ? T(0) : affine_fraction<T>(rest)};
  }
}

// Positions along an axis of n cells that `padding` covers (others see fill alone), and those whose two cells are both in the image.
struct AffineSpan {
  int64_t first, last;
};

REGKIT_INLINE AffineSpan affine_covered(Padding padding, int64_t n) {
  if (padding == Padding::zeros) return {-kVoxel, n * kVoxel - 1};
  if (padding == Padding::extent) return {-kVoxel / 2, (n - 1) * kVoxel + kVoxel / 2};
  return {INT64_MIN, INT64_MAX};
}

REGKIT_INLINE AffineSpan affine_interior(int64_t n) { return {0, (n - 1) * kVoxel - 1}; }

}  // namespace regkit
