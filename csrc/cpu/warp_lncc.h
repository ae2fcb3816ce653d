// Local NCC of an image and a warped one on the CPU: value, and gradient by the displacement, without the warped image.
#pragma once
#include <cstdint>

#include "cpu/warp.h"

namespace regkit {

template <class T>
struct WarpLnccCall {
  const T *fixed, *moving, *displacement;  // (batch, channels, output), (batch, channels, image), (batch, dims, output), contiguous
  const T* weight;                         // (batch, 1, output), or null for 1
  T* gradient;                             // d sum(weight * ncc) * scale / d displacement, or null
  double* total;                           // sum(weight * ncc)
  T scale;
  WarpSizes sizes;
  int64_t window[3];                       // odd; 1 along i in 2-D
  int padding;
  T fill, eps;
};

template <class T>
void warp_lncc(const WarpLnccCall<T>& call, int threads);

}  // namespace regkit
