// Three-tap smoothing along every axis on the CPU.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
struct SmoothCall {
  const T* in;       // volumes * (i, j, k), contiguous
  T* out;            // another array of the same size
  int64_t volumes, size[3];
  T side;            // weight of each neighbour; the centre has 1 - 2 side
};

template <class T>
void smooth(const SmoothCall<T>& call, int threads);

}  // namespace regkit
