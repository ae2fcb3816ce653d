// MIND-SSC descriptors on the CPU. Pointers are to contiguous arrays: image (batch, i, j, k), descriptors (batch, 12 or 4, i, j, k); i = 1
// in 2-D.
#pragma once
#include <cstdint>

#include "cpu/storage.h"

namespace regkit {

struct MindSizes {
  int dims;
  int64_t batch, size[3];
  int64_t radius, dilation;  // of the box, of the neighbourhood
};

template <class Stored>
void mind_ssc(const arithmetic<Stored>* image, Stored* out, const MindSizes& sizes, int threads);

// Gradient of sum(grad * descriptors) by the image; grad (batch, 12 or 4, i, j, k).
template <class T>
void mind_ssc_backward(const T* grad, const T* image, T* grad_image, const MindSizes& sizes, int threads);

}  // namespace regkit
