// MIND-SSC descriptors on the CPU. Pointers are to dense arrays: image (batch, i, j, k), descriptors (batch, 12 or 4, i, j, k), or
// (batch, i, j, k, 12 or 4) if channels_last, each size divided by `pool`; i = 1 in 2-D.
#pragma once
#include <cstdint>

#include "cpu/storage.h"

namespace regkit {

struct MindSizes {
  int dims;
  int64_t batch, size[3];
  int64_t radius, dilation;  // of the box, of the neighbourhood
  int64_t pool;  // descriptors are means over blocks of so many voxels on an axis; voxels that fill no block are left out
  bool channels_last;

  int64_t pool_of(int axis) const { return axis < 3 - dims ? 1 : pool; }
  MindSizes pooled() const {
    MindSizes s = *this;
    for (int d = 0; d < 3; ++d) s.size[d] /= pool_of(d);
    s.pool = 1;
    return s;
  }
  int64_t voxels() const { return size[0] * size[1] * size[2]; }
};

template <class Stored>
void mind_ssc(const arithmetic<Stored>* image, Stored* out, const MindSizes& sizes, int threads);

// Gradient of sum(grad * descriptors) by the image; grad lies like the descriptors.
template <class Stored>
void mind_ssc_backward(const Stored* grad, const arithmetic<Stored>* image, arithmetic<Stored>* grad_image, const MindSizes& sizes,
                       int threads);

}  // namespace regkit
