// The Jacobian of x + u(x): finite differences along one axis, determinant and cofactors of a D x D matrix given by its columns.
//
// Column d of the matrix M holds the derivatives by axis d: M[c][d] = delta_cd + du_c/dx_d. Differences are central inside and one-sided at the border
// (np.gradient's rule), 0 along an axis of one voxel. With cof[c][d] = d det / d M[c][d]: det = sum_c M[c][d] cof[c][d] for any column d.
#pragma once
#include <cstdint>

namespace regkit {

// du/dx at x = (u(high) - u(low)) * inverse.
template <class T>
struct Neighbours {
  int64_t low, high;
  T inverse;
};

template <class T>
inline Neighbours<T> neighbours(int64_t x, int64_t n) {
  const int64_t low = x > 0 ? x - 1 : 0, high = x < n - 1 ? x + 1 : n - 1;
  return {low, high, high > low ? T(1) / static_cast<T>(high - low) : T(0)};
}

// Column d of the cofactors in 3-D from the two columns after d in cyclic order: their cross product.
template <class T>
inline void cofactor_column(const T (&a)[3], const T (&b)[3], T (&out)[3]) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}

// Column d of the cofactors in 2-D from the other column; sign is +1 for d = 0 and -1 for d = 1.
template <class T>
inline void cofactor_column(const T (&a)[2], T sign, T (&out)[2]) {
  out[0] = sign * a[1];
  out[1] = -sign * a[0];
}

}  // namespace regkit
