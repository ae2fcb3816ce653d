// Natural logarithm of a vector: the C library's is a call a number.
//
// x = 2^e m with m in [sqrt(1/2), sqrt(2)): log x = e log 2 + log m, and log m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172, by its odd
// series up to s^9: the first term left out is below 1e-9. Relative error below 2e-7. For normal numbers above 0; infinity and NaN stay.
// double, which is for checks, takes the C library's.
#pragma once
#include <cmath>
#include <cstdint>

#include "cpu/lanes.h"

namespace regkit {

typedef int32_t IntLanes __attribute__((vector_size(kVectorBytes)));

inline Lanes<float> logarithm(Lanes<float> x) {
  IntLanes bits;
  std::memcpy(&bits, &x, sizeof bits);
  const IntLanes exponent = (bits - 0x3f3504f3) >> 23, mantissa = bits - (exponent << 23);  // 0x3f3504f3 is sqrt(1/2)
  Lanes<float> m;
  std::memcpy(&m, &mantissa, sizeof m);
  const Lanes<float> s = (m - 1) / (m + 1), z = s * s;
  const Lanes<float> series = s * (2 + z * (2.f / 3 + z * (2.f / 5 + z * (2.f / 7 + z * (2.f / 9)))));
  const Lanes<float> value = __builtin_convertvector(exponent, Lanes<float>) * 0.693147181f + series;
  return x <= 3.4028235e38f ? value : x;
}

inline Lanes<double> logarithm(Lanes<double> x) {
  for (int l = 0; l < kLaneCount<double>; ++l) x[l] = std::log(x[l]);
  return x;
}

}  // namespace regkit
