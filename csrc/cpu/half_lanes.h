// storage.h for whole registers: lanes from and to memory in any dtype. Compilers do not vectorise float16 conversions by themselves.
#pragma once
#include "cpu/lanes.h"
#include "cpu/storage.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace regkit {

template <class Stored>
inline Lanes<Stored> load_stored(const Stored* source) {
  return load_lanes(source);
}

template <class Stored>
inline void store_stored(Stored* target, Lanes<Stored> lanes) {
  store_lanes(target, lanes);
}

#if defined(__AVX512F__)
inline Lanes<float> load_stored(const float16* source) {
  return (Lanes<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}
inline void store_stored(float16* target, Lanes<float> lanes) {
  const __m256i halves = _mm512_maskz_cvtps_ph(0xffff, (__m512)lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), halves);
}
#elif defined(__F16C__)
inline Lanes<float> load_stored(const float16* source) {
  return (Lanes<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}
inline void store_stored(float16* target, Lanes<float> lanes) {
  const __m128i halves = _mm256_cvtps_ph((__m256)lanes, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), halves);
}
#else
inline Lanes<float> load_stored(const float16* source) {
  Lanes<float> lanes;
  for (int l = 0; l < kLaneCount<float>; ++l) lanes[l] = load(source[l]);
  return lanes;
}
inline void store_stored(float16* target, Lanes<float> lanes) {
  for (int l = 0; l < kLaneCount<float>; ++l) target[l] = store<float16>(lanes[l]);
}
#endif

typedef uint32_t WordLanes __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfLanes __attribute__((vector_size(kVectorBytes / 2)));

inline Lanes<float> load_stored(const bfloat16* source) {
  HalfLanes halves;
  std::memcpy(&halves, source, sizeof halves);
  return (Lanes<float>)(__builtin_convertvector(halves, WordLanes) << 16);
}

// As store<bfloat16>.
inline void store_stored(bfloat16* target, Lanes<float> lanes) {
  const WordLanes wide = (WordLanes)lanes, rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  const HalfLanes halves = __builtin_convertvector(lanes == lanes ? rounded : WordLanes{} + 0x7fc0, HalfLanes);
  std::memcpy(target, &halves, sizeof halves);
}

}  // namespace regkit
