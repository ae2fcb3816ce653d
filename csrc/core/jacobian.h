// The Jacobian of x + u(x): finite differences along one axis, determinant and cofactors of a D x D matrix given by its columns.
//
// Column d of the matrix M holds the derivatives by axis d: M[c][d] = delta_cd + du_c/dx_d. Differences are central inside and one-sided at
// the border (np.gradient's rule), 0 along an axis of one voxel. With cof[c][d] = d det / d M[c][d]: det = sum_c M[c][d] cof[c][d] for any
// column d.
#pragma once
#include <cstdint>

#include "core/inline.h"

namespace regkit {

// du/dx at x = (u(high) - u(low)) * inverse.
template <class T>
struct Neighbours {
  int64_t low, high;
  T inverse;
};

template <class T>
REGKIT_INLINE Neighbours<T> neighbours(int64_t x, int64_t n) {
  const int64_t low = x > 0 ? x - 1 : 0, high = x < n - 1 ? x + 1 : n - 1;
  return {low, high, high > low ? T(1) / static_cast<T>(high - low) : T(0)};
}

// cof[c][d] in 3-D: a and b are the two columns after d, p and q the two components after c, in cyclic order.
template <class T>
REGKIT_INLINE T cofactor(T a_p, T a_q, T b_p, T b_q) {
  return a_p * b_q - a_q * b_p;
}
// In 2-D cof[c][d] is the other component of the other column, negative where c != d.

}  // namespace regkit
