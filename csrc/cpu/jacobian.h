// det(I + grad u) on the CPU, and its derivative.
#pragma once
#include <cstdint>

namespace regkit {

struct JacobianSizes {
  int dims;  // 2 or 3, also the number of components
  int64_t batch, size[3];  // i = 1 in 2-D
  int64_t voxels() const { return size[0] * size[1] * size[2]; }
};

template <class T>
void jacobian_determinant(const T* u, T* determinant, const JacobianSizes& sizes, int threads);

// Gradient of sum(grad_out * determinant) by u.
template <class T>
void jacobian_determinant_grad(const T* grad_out, const T* u, T* grad_u, const JacobianSizes& sizes, int threads);

}  // namespace regkit
