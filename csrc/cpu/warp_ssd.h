// Squared differences of an image and a warped one on the CPU: their sum, and its gradient by the displacement, without the warped image.
#pragma once
#include <cstdint>

#include "cpu/storage.h"
#include "cpu/warp.h"

namespace regkit {

template <class Stored, class T = arithmetic<Stored>>
struct WarpSsdCall {
  const Stored *fixed, *moving;  // (batch, channels, output), (batch, channels, image), contiguous
  const T* displacement;         // (batch, dims, output)
  const T* weight;               // (batch, 1, output), or null for 1
  T* gradient;                   // scale * d total / d displacement, or null
  double* total;                 // sum of weight * (fixed - warped)^2 over voxels and channels
  T scale;
  WarpSizes sizes;
  int padding;
  T fill;
};

template <class Stored>
void warp_ssd(const WarpSsdCall<Stored>& call, int threads);

}  // namespace regkit
