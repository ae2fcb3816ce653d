// Local correlation of two feature maps a and b of C channels: one term per channel and displacement d, b being zero outside.
//
//   dot   out(d, x) = sum_c a(x) b(x + d) / C              ssd   out(d, x) = sum_c (a(x) - b(x + d))^2 / C
//
// Both gradients have one form: own(x) is the map that is differentiated, other(x + e) the one it is compared with, weight(e, x) the
// gradient of that comparison: e = d and g(d, x) for a, e = -d and g(d, x - d) for b.
//   dot   sum_e weight other / C                            ssd   2 sum_e weight (own - other) / C
#pragma once
#include "core/inline.h"

namespace regkit {

// V is a number or a vector of numbers.
template <bool ssd, class V>
REGKIT_INLINE V dense_term(V a, V b) {
  if constexpr (ssd) return (a - b) * (a - b);
  else return a * b;
}

template <bool ssd, class V>
REGKIT_INLINE V dense_gradient_term(V weight, V own, V other) {
  if constexpr (ssd) return weight * (own - other);
  else return weight * other;
}

}  // namespace regkit
