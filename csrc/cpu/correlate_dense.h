// Local correlation of two feature maps and its gradients; formulas in core/correlate_dense.h. Pointers are to contiguous arrays; sizes are
// (i, j, k), 2-D maps have i = 1 and radius 0 along i.
#pragma once
#include <cstdint>

#include "cpu/storage.h"

namespace regkit {

struct DenseSizes {
  int64_t batch, channels, size[3], radius[3], stride;
  bool ssd;
  int64_t displacements() const { return (2 * radius[0] + 1) * (2 * radius[1] + 1) * (2 * radius[2] + 1); }
};

// a, b: (batch, channels, voxels); out: (batch, displacements, voxels), first axis of the displacements slowest.
template <class Stored>
void correlate_dense(const Stored* a, const Stored* b, Stored* out, const DenseSizes& sizes, int threads);

// grad: as out; gradient: (batch, channels, voxels) by `own`, which is a, or b where `second`.
template <class Stored>
void correlate_dense_backward(const Stored* grad, const Stored* own, const Stored* other, bool second, Stored* gradient,
                              const DenseSizes& sizes, int threads);

}  // namespace regkit
