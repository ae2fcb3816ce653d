// MIND-SSC: which voxels are compared, and the pointwise part of the descriptor.
//
// The neighbours s of a voxel are its 6 (3-D) or 4 (2-D) face neighbours at distance `dilation`; channel c compares the pair (first,
// second) of them, the 12 or 4 pairs of neighbours that are not opposite. With D_c = mean over the box of (I(x + first) - I(x + second))^2
// (borders replicated):
//   q_c = D_c - min_c D_c,   V = mean_c q_c clamped to [1e-3, 1e3] * mean over the image of V,   mind_c = exp(-q_c / V)
#pragma once
#include "core/exp.h"
#include "core/inline.h"

namespace regkit {

struct MindPairs {
  int neighbours = 0, channels = 0;
  int offset[6][3] = {};
  int first[12] = {}, second[12] = {};

  explicit MindPairs(int dims) {
    const int all[6][3] = {{-1, 0, 0}, {0, 0, -1}, {0, -1, 0}, {0, 0, 1}, {1, 0, 0}, {0, 1, 0}};
    for (const auto& s : all) {
      if (dims == 2 && s[0] != 0) continue;
      for (int d = 0; d < 3; ++d) offset[neighbours][d] = s[d];
      ++neighbours;
    }
    for (int a = 0; a < neighbours; ++a)
      for (int b = 0; b < a; ++b) {
        int distance = 0;
        for (int d = 0; d < 3; ++d) distance += (offset[a][d] - offset[b][d]) * (offset[a][d] - offset[b][d]);
        if (distance != 2) continue;
        first[channels] = a;
        second[channels] = b;
        ++channels;
      }
  }
};

// The bounds of V; the least value keeps a constant image (V = 0) finite: its descriptors are 1.
template <class T>
struct MindBounds {
  T low, high;
  REGKIT_INLINE explicit MindBounds(T mean) : low(T(1e-3) * mean), high(T(1e3) * mean) {
    const T least = T(1e-30);
    low = low < least ? least : low;  // a NaN mean stays, and makes every descriptor NaN
    high = high < least ? least : high;
  }
  REGKIT_INLINE T clamp(T v) const {
    const T raised = v > low ? v : low;
    return raised < high ? raised : high;
  }
};

}  // namespace regkit
