// Natural logarithm that compilers turn into vector code: the C library's is a call a number.
//
// x = 2^e m with m in [sqrt(1/2), sqrt(2)): log x = e log 2 + log m, and log m = 2 artanh(s) with s = (m - 1) / (m + 1), |s| < 0.172, by its odd
// series up to s^9: the first term left out is below 1e-9. Relative error below 2e-7 (float). For normal numbers above 0; infinity and NaN stay.
// double takes the C library's.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace regkit {

inline float logarithm(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int32_t exponent = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3 is sqrt(1/2)
  const int32_t mantissa = bits - exponent * (1 << 23);
  float m;
  std::memcpy(&m, &mantissa, sizeof m);
  const float s = (m - 1) / (m + 1), z = s * s;
  const float series = s * (2 + z * (2.f / 3 + z * (2.f / 5 + z * (2.f / 7 + z * (2.f / 9)))));
  const float value = static_cast<float>(exponent) * 0.693147181f + series;
  return x <= 3.4028235e38f ? value : x;
}

inline double logarithm(double x) { return std::log(x); }

}  // namespace regkit
