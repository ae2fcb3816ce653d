// out(x) = image(A x + t) on the CPU, linear for images, nearest for labels. Pointers are to contiguous arrays; sizes as in warp.h.
#pragma once
#include <cstdint>

#include "cpu/storage.h"
#include "cpu/warp.h"

namespace regkit {

// matrix: (batch, dims, dims + 1)
template <class Stored, class T = arithmetic<Stored>>
void warp_affine(const Stored* image, const double* matrix, Stored* out, const WarpSizes& sizes, int padding, T fill, int threads);

// Element is any type of the right width; outside (not with border) it is 0.
template <class Element>
void warp_affine_nearest(const Element* labels, const double* matrix, Element* out, const WarpSizes& sizes, int padding, int threads);

}  // namespace regkit
