// Vectors of stored numbers, converted to what kernels compute in. The compiler does not vectorise conversions from float16 by itself.
#pragma once
#include <cstdint>
#include <type_traits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "cpu/lanes.h"
#include "cpu/storage.h"

namespace regkit {

template <class Stored>
inline Lanes<arithmetic<Stored>> load_as_lanes(const Stored* source) {
  using T = arithmetic<Stored>;
  if constexpr (std::is_same_v<Stored, T>) {
    return load_lanes(source);
  } else {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<Stored, float16>)
      return (Lanes<T>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
#elif defined(__F16C__) && defined(__AVX2__)
    if constexpr (std::is_same_v<Stored, float16>)
      return (Lanes<T>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
#endif
    T converted[kLaneCount<T>];
    for (int l = 0; l < kLaneCount<T>; ++l) converted[l] = load(source[l]);
    return load_lanes(converted);
  }
}

}  // namespace regkit
