// Sums of a block as whole numbers, of which shared memory has native additions and which no order changes: the largest number that goes into
// them, and the unit that follows from it.
#pragma once
#include <cmath>

#include "cuda/device.h"

namespace regkit::cuda {

// The largest of what the block's threads have, NaN if one is; all of them call it. It waits for all before and after.
template <int kThreads>
__device__ __forceinline__ float largest_of_block(float mine, float (&all)[kThreads]) {
  const int thread = threadIdx.x;
  all[thread] = mine;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (thread < half && !(all[thread + half] <= all[thread]) && all[thread] == all[thread]) all[thread] = all[thread + half];
    __syncthreads();
  }
  return all[0];
}

// How many units make 1, a power of two, where `largest` (finite) is to have so many bits.
__device__ __forceinline__ float units_of_one(float largest, int bits) {
  int exponent;  // largest is below 2^exponent
  frexpf(largest, &exponent);
  return ldexpf(1.0f, bits - exponent < 120 ? bits - exponent : 120);
}

}  // namespace regkit::cuda
