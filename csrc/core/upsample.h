// Linear resampling along one axis: which two coarse samples a fine index reads.
//
// Fine index x reads the coarse coordinate c = (x - offset) / factor, clamped to [0, n - 1]:
//   out(x) = (1 - f) in(low) + f in(high),   low = floor(c),   high = min(low + 1, n - 1),   f = c - low
#pragma once
#include <cmath>
#include <cstdint>

#include "core/inline.h"

namespace regkit {

struct UpsampleTap {
  int32_t low, high;
  double fraction;
};

REGKIT_INLINE UpsampleTap upsample_tap(int64_t x, int64_t coarse, double factor, double offset) {
  const double last = static_cast<double>(coarse - 1), raw = (static_cast<double>(x) - offset) / factor;
  const double c = raw > 0 ? (raw < last ? raw : last) : 0;
  const double low = std::floor(c);
  return {static_cast<int32_t>(low), static_cast<int32_t>(low < last ? low + 1 : last), c - low};
}

}  // namespace regkit
