// Count, mean and squared deviation of numbers, merged from parts without cancellation: sums of squares would lose a small spread around a large mean.
//
//   delta = mean_b - mean_a,   mean = mean_a + delta n_b / n,   m2 = m2_a + m2_b + delta^2 n_a n_b / n          (Chan et al. 1979)
#pragma once
#include "core/inline.h"

namespace regkit {

struct Moments {
  double count, mean, m2;
};

REGKIT_INLINE Moments merged(const Moments& a, const Moments& b) {
  const double count = a.count + b.count, delta = b.mean - a.mean;
  if (b.count == 0) return a;
  return {count, a.mean + delta * (b.count / count), a.m2 + b.m2 + delta * delta * (a.count * b.count / count)};
}

}  // namespace regkit
