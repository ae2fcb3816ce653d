// out = factor * x on the CPU.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
void scaled(const T* x, T factor, T* out, int64_t elements, int threads);

}  // namespace regkit
