// Bending energy on the CPU: energy and gradient in one pass.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
struct BendingCall {
  const T* u;        // volumes * (i, j, k), contiguous
  T* gradient;       // dE / du times scale, or null
  double* energy;    // E = sum over voxels of weight * (second difference)^2, see core/bending.h
  T scale;
  int64_t volumes, size[3];  // i = 1 in 2-D
  T pure[3], mixed[3];       // weights of (i, i), (j, j), (k, k) and of (i, j), (i, k), (j, k)
};

template <class T>
void bending_energy(const BendingCall<T>& call, int threads);

}  // namespace regkit
