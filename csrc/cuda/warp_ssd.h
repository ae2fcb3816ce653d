// Squared differences of an image and a warped one on a GPU: their sum by tiles, and its gradient by the displacement.
#pragma once
#include <cstdint>

#include "cuda/stored.h"
#include "cuda/warp.h"

namespace regkit::cuda {

struct WarpSsdCall {
  const void *fixed, *moving;  // (batch, channels, output), (batch, channels, image)
  StoredAs stored;             // of both
  const float* displacement;   // (batch, dims, output)
  const float* weight;         // (batch, 1, output), or null for 1
  const float* scale;          // on the device: the gradient is that of scale * total
  float* gradient;             // as the displacement, or null
  float* partials;             // sums of weight * (fixed - warped)^2, one a block: warp_ssd_blocks(sizes) of them
  WarpSizes sizes;
  int padding;
  float fill;
};

int64_t warp_ssd_blocks(const WarpSizes& sizes);

void warp_ssd(const WarpSsdCall& call, Stream stream);

}  // namespace regkit::cuda
