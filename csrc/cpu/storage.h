// How tensors of each dtype are kept in memory and what kernels compute in: half precision is storage only, arithmetic is float32 (float64
// for float64).
#pragma once
#include <cstdint>
#include <cstring>

namespace regkit {

using float16 = _Float16;

// The upper half of a float32.
struct bfloat16 {
  uint16_t bits;
};

template <class Stored>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class Stored>
using arithmetic = typename Arithmetic<Stored>::type;

template <class Stored>
inline arithmetic<Stored> load(Stored x) {
  return static_cast<arithmetic<Stored>>(x);
}

template <>
inline float load(bfloat16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

template <class Stored>
inline Stored store(arithmetic<Stored> x) {
  return static_cast<Stored>(x);
}

// Rounds to nearest, ties to even; a NaN stays a NaN.
template <>
inline bfloat16 store<bfloat16>(float x) {
  uint32_t wide;
  std::memcpy(&wide, &x, sizeof wide);
  const uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x == x ? rounded : 0x7fc0)};
}

}  // namespace regkit

// MACRO(S) for every dtype that images are stored in: the explicit instantiations of a kernel's templates.
#define REGKIT_FOR_STORED(MACRO) MACRO(float) MACRO(double) MACRO(float16) MACRO(bfloat16)
