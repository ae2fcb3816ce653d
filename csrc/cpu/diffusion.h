// Diffusion energy on the CPU: energy and gradient in one pass.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
struct DiffusionCall {
  const T* u;        // volumes * (i, j, k), contiguous
  T* gradient;       // dE / du times scale, or null
  double* energy;    // E = sum over voxels and axes of weight[axis] (forward difference)^2
  T scale;
  int64_t volumes, size[3];  // i = 1 in 2-D
  T weight[3];
};

template <class T>
void diffusion_energy(const DiffusionCall<T>& call, int threads);

}  // namespace regkit
