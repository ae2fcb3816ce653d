// Overlap of a label map F with a linearly warped label map M, without a one-hot.
//
// With w_i(x) the linear weights of the 2^D cells around x + u(x), and S_l(x) = sum_i w_i(x) [M(cell_i) = l]:
//   both_l = sum_x [F(x) = l] S_l(x),   warped_l = sum_x S_l(x),   still_l = sum_x [F(x) = l]
// A functional of these sums whose derivatives by both_l and warped_l are two tables has the gradient
//   d/du(x) = sum_i dw_i/du (warped'[M(cell_i)] + [M(cell_i) = F(x)] both'[F(x)])
// which is 0 wherever all cells have one label: nearly everywhere.
//
// Labels are kept as codes, their places in the list of wanted labels; all others share the code `none`. M's codes have a margin of two
// cells on every side (none for zeros, the border's code for border), so that a clamped coordinate always has all its cells and no kernel
// has a branch for the border.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/inline.h"
#include "core/warp.h"

namespace regkit {

constexpr int32_t kMargin = 2;

template <class T>
struct CodeSample {
  int32_t low;  // the lower cell, counted with the margin
  T fraction;   // weight of the upper cell
  T slope;      // its derivative by the coordinate: 1, or 0 where the coordinate was clamped to a border
};

// A NaN coordinate falls into the margin; the caller tells it apart.
template <Padding padding, class T>
REGKIT_INLINE CodeSample<T> code_sample(T c, int32_t n) {
  const T low = padding == Padding::zeros ? T(-kMargin) : T(0), high = static_cast<T>(padding == Padding::zeros ? n : n - 1);
  T x = c > low ? c : low;
  x = x < high ? x : high;
  const T base = std::floor(x);
  return {static_cast<int32_t>(base) + kMargin, x - base, padding == Padding::zeros || (c >= low && c <= high) ? T(1) : T(0)};
}

template <int D, class T>
REGKIT_INLINE void corner_weights(const T (&f)[D], T (&weight)[1 << D]) {
  for (int corner = 0; corner < (1 << D); ++corner) {
    T product = 1;
    for (int d = 0; d < D; ++d) product *= corner >> (D - 1 - d) & 1 ? f[d] : 1 - f[d];
    weight[corner] = product;
  }
}

// gradient[d] = sum over corners of value * d weight / d axis d
template <int D, class T>
REGKIT_INLINE void corner_slopes(const T (&f)[D], const T (&value)[1 << D], T (&gradient)[D]) {
  for (int d = 0; d < D; ++d) {
    gradient[d] = 0;
    for (int corner = 0; corner < (1 << D); ++corner) {
      T product = corner >> (D - 1 - d) & 1 ? T(1) : T(-1);
      for (int e = 0; e < D; ++e)
        if (e != d) product *= corner >> (D - 1 - e) & 1 ? f[e] : 1 - f[e];
      gradient[d] += product * value[corner];
    }
  }
}

}  // namespace regkit
