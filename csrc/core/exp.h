// The exponential function in operations that vectorise.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace regkit {

// exp(x) for x <= 0, in operations that vectorise: 2^n times the Taylor series of the rest, relative error 2e-7; 0 below -87.
REGKIT_INLINE float exp_nonpositive(float x) {
  const float limited = x < -87.0f ? -87.0f : x;
  const float n = std::floor(limited * 1.44269504f + 0.5f);
  const float r = (limited - n * 0.693359375f) + n * 2.12194440e-4f;
  float series = 1.0f / 5040;
  series = series * r + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  const float value = x < -87.0f ? 0.0f : series * power;
  return x == x ? value : x;
}

REGKIT_INLINE double exp_nonpositive(double x) { return std::exp(x); }

}  // namespace regkit
