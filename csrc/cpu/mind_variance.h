// Distances and their mean from box sums, lanes of voxels at a time; and the mean of V over a volume, which bounds it.
#pragma once
#include <type_traits>
#include <vector>

#include "cpu/mind_sweep.h"

namespace regkit {

// Finishes the sums of a row along k: q = lanes of the distances above the least of them, for all C channels at once in registers; returns
// their mean V. Distances are box sums, not means: descriptors do not see the factor. Radius: that of the box, or -1 for any, `radius`.
template <int C, int Radius, class T>
inline Lanes<T> distances(const ScratchRows<T>& boxes, int64_t k, int64_t radius, Lanes<T>* q) {
  const int64_t last = 2 * (Radius < 0 ? radius : Radius);
  for (int c = 0; c < C; ++c) {
    const T* box = boxes.row(c) + k;
    q[c] = load_lanes(box);
    for (int64_t o = 1; o <= last; ++o) q[c] += load_lanes(box + o);
  }
  Lanes<T> least = q[0], sum = {};
  for (int c = 1; c < C; ++c) least = q[c] < least ? q[c] : least;
  for (int c = 0; c < C; ++c) {
    q[c] -= least;
    sum += q[c];
  }
  return sum * (T(1) / C);
}

template <class T>
inline T box_voxels(const MindSizes& s) {
  T voxels = 1;
  for (int d = 0; d < s.dims; ++d) voxels *= static_cast<T>(2 * s.radius + 1);
  return voxels;
}

// Calls run<channels, radius or -1>, compiled apart for what is common.
template <class Run>
inline void specialised(const MindSizes& s, Run&& run) {
  using std::integral_constant;
  const auto of_radius = [&](auto channels) {
    if (s.radius == 1) run(channels, integral_constant<int, 1>());
    else run(channels, integral_constant<int, -1>());
  };
  if (s.dims == 3) of_radius(integral_constant<int, 12>());
  else of_radius(integral_constant<int, 4>());
}

// Mean over each volume of V before clamping; the order of summation does not depend on the threads.
template <class T>
std::vector<T> mean_variances(const T* image, const MindSizes& s, const MindPairs& pairs, int threads) {
  const MindTiles tiles(s);
  const int64_t voxels = s.voxels(), nk = s.size[2];
  std::vector<double> partial(s.batch * tiles.count());
  specialised(s, [&](auto channels, auto radius) {
    constexpr int C = decltype(channels)::value, Radius = decltype(radius)::value;
    parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
      ScratchRows<T> variance(1, nk + kLaneCount<T>);
      double total = 0;
      const T* volume = image + job / tiles.count() * voxels;
      tiles.sweep(s, pairs, volume, job % tiles.count()).run([&](int64_t, int64_t, const ScratchRows<T>& boxes) {
        Lanes<T> q[C];
        for (int64_t k = 0; k < nk; k += kLaneCount<T>)
          store_lanes(variance.row(0) + k, distances<C, Radius>(boxes, k, s.radius, q));
        double lanes[8] = {};
        const T* v = variance.row(0);
        int64_t k = 0;
        for (; k + 8 <= nk; k += 8)
          for (int l = 0; l < 8; ++l) lanes[l] += v[k + l];
        for (; k < nk; ++k) lanes[0] += v[k];
        for (double lane : lanes) total += lane;
      });
      partial[job] = total;
    });
  });
  std::vector<T> means(s.batch);
  for (int64_t b = 0; b < s.batch; ++b) {
    double sum = 0;
    for (int64_t t = 0; t < tiles.count(); ++t) sum += partial[b * tiles.count() + t];
    means[b] = static_cast<T>(sum / static_cast<double>(voxels));
  }
  return means;
}

}  // namespace regkit
