// What volumes are shifted by so that their squares keep their precision: their means, added up in an order that does not depend on the threads.
#pragma once
#include <cmath>
#include <vector>

#include "cpu/parallel.h"

namespace regkit {

// What a volume is shifted by before its squares are added up: its mean, or 0 where NaN or infinity hide it.
template <class T>
std::vector<T> volume_shifts(const T* image, int64_t volumes, int64_t voxels, int threads) {
  const Chunks chunks{voxels, 1 << 16};
  std::vector<double> partial(volumes * chunks.count());
  parallel_for(volumes * chunks.count(), threads, [&](int64_t job) {
    const T* x = image + (job / chunks.count()) * voxels;
    const int64_t begin = chunks.begin(job % chunks.count()), end = chunks.end(job % chunks.count());
    double lanes[8] = {};
    int64_t k = begin;
    for (; k + 8 <= end; k += 8)
      for (int l = 0; l < 8; ++l) lanes[l] += x[k + l];
    for (; k < end; ++k) lanes[0] += x[k];
    for (double lane : lanes) partial[job] += lane;
  });
  std::vector<T> shifts(volumes);
  for (int64_t v = 0; v < volumes; ++v) {
    double sum = 0;
    for (int64_t c = 0; c < chunks.count(); ++c) sum += partial[v * chunks.count() + c];
    shifts[v] = std::isfinite(sum) ? static_cast<T>(sum / static_cast<double>(voxels)) : T(0);
  }
  return shifts;
}

}  // namespace regkit
