// Local NCC on the CPU: value, map and gradients in one sweep.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
struct LnccCall {
  const T *a, *b;                 // volumes * (i, j, k), contiguous
  const T* weight;                // one volume for every `volumes_per_weight` volumes of a, or null for 1
  int64_t volumes_per_weight;
  T* map;                         // ncc of every voxel, or null
  T *grad_a, *grad_b;             // d sum(weight * ncc) * scale / d image, or null
  double* total;                  // sum(weight * ncc), or null
  T scale;
  int64_t volumes, size[3];       // i = 1 in 2-D
  int64_t window[3];              // odd; 1 along i in 2-D
  T eps;
};

template <class T>
void lncc(const LnccCall<T>& call, int threads);

}  // namespace regkit
