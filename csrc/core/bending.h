// Bending energy of one voxel, and its derivative: squared second differences along each pair of axes.
//
//   E = sum_x sum_d w_dd t_d(x)^2 + sum_x sum_{d<e} w_de m_de(x)^2
//   t_d(x)  = u(x - e_d) - 2 u(x) + u(x + e_d)                               where both neighbours exist
//   m_de(x) = u(x + e_d + e_e) - u(x + e_d) - u(x + e_e) + u(x)              where the cell of four voxels exists
// Terms that do not exist do not count: the free border. With L_d u = -(u(x - e_d) - 2 u(x) + u(x + e_d)), a missing neighbour being the voxel
// itself, which is the adjoint of the forward difference times it, and t_d set to 0 where it does not exist,
//   dE/du = 2 (-sum_d w_dd L_d t_d + sum_{d<e} w_de L_d L_e u)
// Everything is differences of differences: a field's offset, however large, does not enter the rounding.
// V is a number or a vector of them.
#pragma once
#include "core/inline.h"

namespace regkit {

template <class V>
REGKIT_INLINE V second_difference(V low, V centre, V high) {
  return (low - centre) + (high - centre);
}

// m_de from the four voxels of the cell, named by their steps along d and e.
template <class V>
REGKIT_INLINE V twist(V v00, V v01, V v10, V v11) {
  return (v11 - v10) - (v01 - v00);
}

// -L_d t_d for five voxels in a row; exists_x is 1 where t_d exists at that voxel, else 0.
template <class V, class T>
REGKIT_INLINE V fourth_difference(V low2, V low, V centre, V high, V high2, T exists_low, T exists, T exists_high) {
  const V t_low = second_difference(low2, low, centre), t = second_difference(low, centre, high), t_high = second_difference(centre, high, high2);
  return (exists_low * t_low - exists * t) + (exists_high * t_high - exists * t);
}

}  // namespace regkit
