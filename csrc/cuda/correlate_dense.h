// Local correlation of two feature maps and its gradients on a GPU; formulas in core/correlate_dense.h. Displacements are whole voxels (stride 1) of
// a radius of 1 to 4. Pointers are to contiguous arrays; 2-D maps have i = 1 and a radius of 0 along i.
#pragma once
#include <cstdint>

#include "cuda/stored.h"

namespace regkit::cuda {

constexpr int kMostDense = 4;  // the largest radius

struct DenseSizes {
  int dims, radius;
  int64_t batch, channels, size[3];
  bool ssd;
  StoredAs stored;  // of all arrays
};

// a, b: (batch, channels, voxels); out: (batch, displacements, voxels), first axis of the displacements slowest.
void correlate_dense(const void* a, const void* b, void* out, const DenseSizes& sizes, Stream stream);

// grad: as out; gradient: (batch, channels, voxels) by `own`, which is a, or b where `second`.
void correlate_dense_backward(const void* grad, const void* own, const void* other, bool second, void* gradient, const DenseSizes& sizes, Stream stream);

}  // namespace regkit::cuda
