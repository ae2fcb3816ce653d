// out(x) = image(x + u(x)) on a GPU, and its derivatives. As csrc/cpu/warp.h; pointers are to the device, `stream` takes the work.
#pragma once
#include <cstdint>

#include "cuda/device.h"

namespace regkit::cuda {

struct WarpSizes {
  int dims;            // 2 or 3
  int64_t batch, channels;
  int64_t image[3];    // i, j, k of the image; i = 1 in 2-D
  int64_t output[3];   // i, j, k of the displacement and the output
};

template <class Stored, class T = arithmetic<Stored>>
void warp_linear(const Stored* image, const T* u, Stored* out, const WarpSizes& sizes, int padding, double fill, Stream stream);

template <class Stored, class T = arithmetic<Stored>>
void warp_grad_displacement(const Stored* grad, const Stored* image, const T* u, T* out, const WarpSizes& sizes, int padding, double fill, Stream stream);

// d sum(grad * out) / d image is added to `out`: float (double for double) sums, in any order; or, with a `unit` (on the device, a power of two),
// whole numbers of units, which are the same bits in every order. bound: null, or nothing is added while *bound (on the device) is at most 1.
template <class Stored, class T = arithmetic<Stored>>
void warp_grad_image(const Stored* grad, const T* u, T* out, const WarpSizes& sizes, int padding, const float* bound, Stream stream);
template <class Stored, class T = arithmetic<Stored>>
void warp_grad_image_fixed(const Stored* grad, const T* u, const double* unit, int64_t* out, const WarpSizes& sizes, int padding, Stream stream);

// The same sums in any order, where channels lie side by side in `out` and come in fours; grad_last: in the gradient too.
template <class Stored>
void warp_grad_image_last(const Stored* grad, bool grad_last, const float* u, float* out, const WarpSizes& sizes, int padding, Stream stream);

// Element: any type of the right width. fill: on the device.
template <class Element>
void warp_nearest(const Element* image, const float* u, Element* out, const WarpSizes& sizes, int padding, const Element* fill, Stream stream);

}  // namespace regkit::cuda
