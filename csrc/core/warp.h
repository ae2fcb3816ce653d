// Linear and nearest interpolation: the formulas of one axis, shared by every warp kernel.
//
// A sample at coordinate c reads the cells floor(c) and floor(c)+1 with weights 1-f and f, f = c - floor(c). Along each axis this is one
// AxisSample: two valid indices, their weights, and the derivative of the weights by c. What lies outside the image is expressed by zero
// weights, so that kernels need no branches:
//   zeros   cells outside the image count as `fill`; value = fill + sum w (v - fill)
//   border  the coordinate is clamped to [0, n-1]; its derivative is 0 strictly outside
//   extent  voxels have a width: within half a voxel of the edge the edge's value, beyond that fill (ITK's rule)
// A NaN coordinate gives a NaN value (and NaN derivative), never a silent fill.
#pragma once
#include <cmath>
#include <cstdint>

#include "core/inline.h"

namespace regkit {

enum class Padding : int { zeros = 0, border = 1, extent = 2 };

template <class T>
struct AxisSample {
  int32_t low, high;  // valid indices, also where a weight is zero
  T weight_low, weight_high;
  T slope_low, slope_high;  // d weight / d coordinate
};

template <Padding padding, class T>
REGKIT_INLINE AxisSample<T> axis_sample(T c, int32_t n) {
  const T last = static_cast<T>(n - 1);
  AxisSample<T> s;
  if constexpr (padding == Padding::zeros) {
    // Clamping to one cell beyond the image keeps the conversion to int defined for huge coordinates; there all weights are zero anyway.
    T x = c > T(-2) ? c : T(-2);
    x = x < last + 2 ? x : last + 2;
    const T base = std::floor(x);
    const T f = x - base;
    const bool in_low = base >= 0 && base <= last;
    const bool in_high = base >= -1 && base < last;
    s.weight_low = in_low ? 1 - f : T(0);
    s.weight_high = in_high ? f : T(0);
    s.slope_low = in_low ? T(-1) : T(0);
    s.slope_high = in_high ? T(1) : T(0);
    const T lo = base > 0 ? base : T(0), hi = base + 1 > 0 ? base + 1 : T(0);
    s.low = static_cast<int32_t>(lo < last ? lo : last);
    s.high = static_cast<int32_t>(hi < last ? hi : last);
  } else {
    T x = c > 0 ? c : T(0);
    x = x < last ? x : last;
    const T base = std::floor(x);
    const T f = x - base;
    const bool covered = padding == Padding::border || (c >= T(-0.5) && c <= last + T(0.5));
    const bool moves = c >= 0 && c <= last && n > 1;
    s.weight_low = covered ? 1 - f : T(0);
    s.weight_high = covered ? f : T(0);
    s.slope_low = moves ? T(-1) : T(0);
    s.slope_high = moves ? T(1) : T(0);
    s.low = static_cast<int32_t>(base);
    s.high = static_cast<int32_t>(base + 1 < last ? base + 1 : last);
  }
  s.weight_low = c == c ? s.weight_low : c;  // NaN in, NaN out
  s.slope_low = c == c ? s.slope_low : c;
  return s;
}

// Index of the nearest cell (halves round up, as ITK does), or -1 where the sample is outside.
template <Padding padding, class T>
REGKIT_INLINE int32_t axis_nearest(T c, int32_t n) {
  const T x = std::floor(c + T(0.5));
  if constexpr (padding == Padding::border) {
    const T last = static_cast<T>(n - 1);
    return x > 0 ? (x < last ? static_cast<int32_t>(x) : n - 1) : 0;
  } else {
    return x >= 0 && x < static_cast<T>(n) ? static_cast<int32_t>(x) : -1;
  }
}

}  // namespace regkit
