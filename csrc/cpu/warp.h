// out(x) = image(x + u(x)) on the CPU, and its derivatives. Pointers are to contiguous arrays; sizes are (i, j, k), a 2-D image has D = 2 and uses j, k.
#pragma once
#include <cstdint>

#include "cpu/storage.h"

namespace regkit {

struct WarpSizes {
  int dims;             // 2 or 3
  int64_t batch, channels;
  int64_t image[3];     // i, j, k of the image; i = 1 in 2-D
  int64_t output[3];    // i, j, k of the displacement and the output
  int64_t image_voxels() const { return image[0] * image[1] * image[2]; }
  int64_t output_voxels() const { return output[0] * output[1] * output[2]; }
};

template <class Stored, class T = arithmetic<Stored>>
void warp_linear(const Stored* image, const T* displacement, Stored* out, const WarpSizes& sizes, int padding, T fill, int threads);

// Gradient of sum(grad_out * out) by the displacement (no scatter).
template <class Stored, class T = arithmetic<Stored>>
void warp_grad_displacement(const Stored* grad_out, const Stored* image, const T* displacement, T* grad_displacement, const WarpSizes& sizes, int padding, T fill, int threads);

// Gradient by the image: a scatter, split by image slab so that no two threads write to one voxel and sums have a fixed order.
template <class T>
void warp_grad_image(const T* grad_out, const T* displacement, T* grad_image, const WarpSizes& sizes, int padding, int threads);

// Nearest neighbour for labels; element is any type of the right width.
template <class Element>
void warp_nearest(const Element* image, const float* displacement, Element* out, const WarpSizes& sizes, int padding, Element fill, int threads);

}  // namespace regkit
