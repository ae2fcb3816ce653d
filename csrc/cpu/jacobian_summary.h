// What is reported of det(I + grad u), without the map.
#pragma once
#include <cstdint>

#include "cpu/jacobian.h"

namespace regkit {

constexpr int kJacobianFigures = 6;  // folds, min, max, mean, sdlogj, sdlogj_learn2reg

template <class T>
struct JacobianSummaryCall {
  const T* u;           // batch * dims * (i, j, k), contiguous
  const uint8_t* mask;  // batch * (i, j, k) of 0 and 1, or null: all
  double* figures;      // batch * kJacobianFigures; what no voxel is left for is NaN
  JacobianSizes sizes;
};

template <class T>
void jacobian_summary(const JacobianSummaryCall<T>& call, int threads);

}  // namespace regkit
