// Diffusion energy of one voxel, and its derivative: squared forward differences along each axis, weighted by axis.
//
//   E = sum_x sum_d w_d (u(x + e_d) - u(x))^2,   dE/du(x) = 2 sum_d w_d ((u(x) - u(x - e_d)) - (u(x + e_d) - u(x)))
// A missing neighbour is given as the voxel itself: its difference is 0, which is the free (Neumann) border.
#pragma once
#include "core/inline.h"

namespace regkit {

template <class T>
REGKIT_INLINE T squared_step(T centre, T high, T weight) {
  return weight * (high - centre) * (high - centre);
}

// Half of the derivative along one axis.
template <class T>
REGKIT_INLINE T curvature(T low, T centre, T high, T weight) {
  return weight * ((centre - low) - (high - centre));
}

}  // namespace regkit
