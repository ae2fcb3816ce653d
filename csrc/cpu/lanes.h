// One vector register of the instruction set that a file is compiled for, by the vector extension of GCC and Clang: for kernels that must
// keep several accumulators in registers, which a compiler does not do by itself with arrays of lanes.
#pragma once
#include <cstring>

namespace regkit {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  typedef float type __attribute__((vector_size(kVectorBytes)));
};
template <>
struct LanesOf<double> {
  typedef double type __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Lanes = typename LanesOf<T>::type;
template <class T>
constexpr int kLaneCount = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
inline Lanes<T> load_lanes(const T* source) {
  Lanes<T> lanes;
  std::memcpy(&lanes, source, sizeof lanes);
  return lanes;
}

template <class T>
inline void store_lanes(T* target, Lanes<T> lanes) {
  std::memcpy(target, &lanes, sizeof lanes);
}

// Says that lanes are to be loaded once for all that uses them: the compiler would fold the load into each use, which costs a load more.
template <class L>
inline void keep_in_register([[maybe_unused]] L& lanes) {
#if defined(__AVX512F__)
  asm("" : "+v"(lanes));
#elif defined(__SSE2__)
  asm("" : "+x"(lanes));
#elif defined(__aarch64__)
  asm("" : "+w"(lanes));
#endif
}

template <class T>
inline T sum_lanes(Lanes<T> lanes) {
  T sum = 0;
  for (int l = 0; l < kLaneCount<T>; ++l) sum += lanes[l];
  return sum;
}

}  // namespace regkit
