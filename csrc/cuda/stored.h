// Arrays of float32, float16 or bfloat16, told at run time: for kernels whose work on a number read is large beside a branch that all threads take
// the same way. Three times fewer kernels to compile than with a type for each.
#pragma once
#include "cuda/device.h"

namespace regkit::cuda {

enum class StoredAs : int { float32 = 0, float16 = 1, bfloat16 = 2 };

#if defined(__CUDACC__) || defined(REGKIT_EMULATE_CUDA)
// f(pointer of the right type).
template <class F>
__device__ __forceinline__ void as_stored(const void* data, StoredAs stored, F&& f) {
  if (stored == StoredAs::float32) f(static_cast<const float*>(data));
  else if (stored == StoredAs::float16) f(static_cast<const float16*>(data));
  else f(static_cast<const bfloat16*>(data));
}

__device__ __forceinline__ void put(void* data, StoredAs stored, int64_t at, float value) {
  if (stored == StoredAs::float32) static_cast<float*>(data)[at] = value;
  else if (stored == StoredAs::float16) static_cast<float16*>(data)[at] = store<float16>(value);
  else static_cast<bfloat16*>(data)[at] = store<bfloat16>(value);
}
#endif

}  // namespace regkit::cuda
