// Scaling and squaring of a velocity on a GPU: u_0 = v / 2^steps, u_{k+1}(x) = u_k(x) + u_k(x + u_k(x)). float32; borders repeat.
#pragma once
#include <cstdint>

#include "cuda/device.h"

namespace regkit::cuda {

struct FieldSizes {
  int dims;  // 2 or 3
  int64_t batch;
  int64_t size[3];  // i = 1 in 2-D
};

constexpr int kMostFused = 4;  // steps that one tile holds

// out = the field after `steps` (at most kMostFused) steps from `scale` v, in one pass. Right only where no step moves a voxel by more than 1:
// elsewhere *failed, which must be 0 before, is 1 afterwards, and `out` is to be made by `integrate_step`.
void integrate_first_steps(const float* v, float scale, int steps, float* out, int* failed, const FieldSizes& sizes, Stream stream);

// out = (scale u) o (scale u). if_failed: null, or the kernel does nothing where *if_failed is 0.
void integrate_step(const float* u, float scale, float* out, const int* if_failed, const FieldSizes& sizes, Stream stream);

// grad_u of L, u' = u o u, from grad = dL/du': out = scale (grad + (d u'/du)^T grad). largest: of |u|, on the device. While it is at most 1 the
// scatter is of a voxel's width, and done here; otherwise it is expected in `scattered` (warp_grad_image of grad by u, with borders repeated),
// which is not read before.
void integrate_step_backward(const float* grad, const float* u, const float* largest, float scale, const float* scattered, float* out, const FieldSizes& sizes, Stream stream);

// scattered = 0, unless *largest is at most 1.
void integrate_clear(const float* largest, float* scattered, const FieldSizes& sizes, Stream stream);

}  // namespace regkit::cuda
