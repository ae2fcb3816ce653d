// 2^x in operations that vectorise, for floats and for whole registers of them.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/lanes.h"

namespace regkit {

template <class To, class From>
inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

template <class Value>
struct IntegersOf;
template <>
struct IntegersOf<float> {
  using type = int32_t;
};
template <>
struct IntegersOf<Lanes<float>> {
  typedef int32_t type __attribute__((vector_size(kVectorBytes)));
};

// For x <= 0 (float64: any x); relative error 2e-7. Below 2^-126 it stays there. A NaN stays one if its payload is zero, as that of every
// NaN which arithmetic makes.
//
// Adding 1.5 * 2^23 rounds x to an integer n and leaves n in the low bits of the sum; the polynomial, of least largest relative error in
// [-1/2, 1/2], gives 2^(x - n), and n is added to its exponent.
template <class Value>
inline Value exp2_nonpositive(Value x) {
  using Integers = typename IntegersOf<Value>::type;
  constexpr float kRound = 12582912.0f;
  const Value least = Value{} - 126.0f, limited = x < least ? least : x;
  const Value shifted = limited + kRound;
  const Value rest = limited - (shifted - kRound);
  Value series = rest * 1.326472763e-3f + 9.671512646e-3f;
  series = series * rest + 5.550733742e-2f;
  series = series * rest + 2.402224209e-1f;
  series = series * rest + 6.931469776e-1f;
  series = series * rest + 1.0f;  // exactly: 2^0 is 1
  return same_bits<Value>(same_bits<Integers>(series) + (same_bits<Integers>(shifted) << 23));
}

inline double exp2_nonpositive(double x) { return std::exp2(x); }

inline Lanes<double> exp2_nonpositive(Lanes<double> x) {
  for (int l = 0; l < kLaneCount<double>; ++l) x[l] = std::exp2(x[l]);
  return x;
}

}  // namespace regkit
