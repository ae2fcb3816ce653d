// Vectors of stored numbers, converted to what kernels compute in and back. The compiler does not vectorise conversions of float16 by itself.
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

using WordLanes = uint32_t __attribute__((vector_size(kVectorBytes)));
using HalfLanes = uint16_t __attribute__((vector_size(kVectorBytes / 2)));

template <class Stored>
inline void store_from_lanes(Stored* target, Lanes<arithmetic<Stored>> lanes) {
  if constexpr (std::is_same_v<Stored, arithmetic<Stored>>) {
    store_lanes(target, lanes);
  } else if constexpr (std::is_same_v<Stored, bfloat16>) {  // as store<bfloat16>
    const WordLanes wide = (WordLanes)lanes, rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    const HalfLanes halves = __builtin_convertvector(lanes == lanes ? rounded : WordLanes{} + 0x7fc0, HalfLanes);
    std::memcpy(target, &halves, sizeof halves);
  } else {
#if defined(__AVX512F__)
    const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), halves);
#elif defined(__F16C__) && defined(__AVX2__)
    const __m128i halves = _mm256_cvtps_ph((__m256)lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target), halves);
#else
    for (int l = 0; l < kLaneCount<float>; ++l) target[l] = store<Stored>(lanes[l]);
#endif
  }
}

}  // namespace regkit
