// Squared local normalised cross-correlation of one window, and its derivatives by the five window sums.
//
// With box sums over the n = w^d voxels of a window (zeros outside the image), of images a and b:
//   c  = Sab - Sa Sb / n,   va = max(Saa - Sa^2 / n, 0) + eps,   vb likewise,   ncc = c^2 / (va vb)
// The derivative of sum(weight * ncc) by the voxels of a is
//   d/da = box(A) + 2 a box(B) + b box(C),   C = weight 2 c / (va vb),   B = -weight ncc / va,   A = -(C Sb + 2 B Sa) / n
// and by b the same with a and b exchanged (C is shared). All of it may be computed on shifted images a - s: nothing changes but the rounding.
#pragma once
#include "core/inline.h"

namespace regkit {

template <class T>
struct LnccTerms {
  T ncc, cross, square_a, linear_a, square_b, linear_b;  // cross = C, square = B, linear = A
};

template <class T>
REGKIT_INLINE LnccTerms<T> lncc_terms(T sa, T sb, T saa, T sbb, T sab, T inverse_n, T eps, T weight) {
  const T c = sab - sa * sb * inverse_n;
  const T va = saa - sa * sa * inverse_n, vb = sbb - sb * sb * inverse_n;
  const T ia = 1 / ((va > 0 ? va : T(0)) + eps), ib = 1 / ((vb > 0 ? vb : T(0)) + eps);
  LnccTerms<T> t;
  t.ncc = c * c * ia * ib;
  t.cross = weight * 2 * c * ia * ib;
  t.square_a = -weight * t.ncc * ia;
  t.square_b = -weight * t.ncc * ib;
  t.linear_a = -(t.cross * sb + 2 * t.square_a * sa) * inverse_n;
  t.linear_b = -(t.cross * sa + 2 * t.square_b * sb) * inverse_n;
  return t;
}

// The derivative by a voxel x of an image from the box sums of its adjoints; y is the voxel of the other image.
template <class T>
REGKIT_INLINE T lncc_gradient(T x, T y, T cross, T square, T linear) {
  return linear + 2 * x * square + y * cross;
}

}  // namespace regkit
