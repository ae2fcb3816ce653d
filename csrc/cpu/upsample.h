// Linear resampling from a coarse to a fine grid on the CPU, and its adjoint.
#pragma once
#include <cstdint>

namespace regkit {

template <class T>
struct UpsampleCall {
  const T* in;    // batch * channels * (i, j, k): the coarse field, or for the adjoint the fine gradient
  T* out;         // the fine field, or for the adjoint the coarse gradient
  const T* scale; // one factor for each channel
  int64_t batch, channels, coarse[3], fine[3];  // i = 1 in 2-D
  double factor[3], offset[3];
};

template <class T>
void upsample(const UpsampleCall<T>& call, int threads);

template <class T>
void upsample_adjoint(const UpsampleCall<T>& call, int threads);

}  // namespace regkit
