// Patches around points and their cosine maps for several kernel sizes, on the CPU.
#pragma once
#include <cstdint>
#include <vector>

#include "cpu/storage.h"

namespace regkit {

template <class Stored>
struct SimilarityCall {
  const Stored *fixed, *moving;  // one channel, contiguous
  const int64_t* points;         // (batch, count, dims) voxels
  Stored* out;                   // (batch, count, 2 + kernels, *patch)
  int dims;                      // 2 or 3
  int64_t batch, count, fixed_size[3], moving_size[3];  // (i, j, k), i = 1 in 2-D
  int64_t patch_size;                                   // odd
  std::vector<int64_t> kernel_sizes;                    // odd
};

template <class Stored>
void similarity_maps(const SimilarityCall<Stored>& call, int threads);

}  // namespace regkit
