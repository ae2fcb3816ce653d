// Labels warped by the majority of linear weights, on the CPU. Formula: core/majority.h.
#pragma once
#include <cstdint>

#include "cpu/warp.h"

namespace regkit {

// Label is an unsigned type of the labels' width; order is its sign bit if they are signed, else 0.
template <class Label>
void warp_majority(const Label* labels, const float* displacement, Label* out, const WarpSizes& sizes, int padding, Label fill, Label order,
                   int threads);

}  // namespace regkit
