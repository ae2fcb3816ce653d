// MIND-SSC: which voxels are compared, and the bounds of the variance.
//
// The neighbours s of a voxel are its 6 (3-D) or 4 (2-D) face neighbours at distance `dilation`; channel c compares the pair (first,
// second) of them, the 12 or 4 pairs of neighbours that are not opposite. With D_c = mean over the box of (I(x + first) - I(x + second))^2
// (borders replicated):
//   q_c = D_c - min_c D_c,   V = mean_c q_c clamped to [1e-3, 1e3] * mean over the image of V,   mind_c = exp(-q_c / V)
//
// The 12 pairs have only 6 difference vectors (2-D: 4 have 2): with z = x + base_c and the image continued beyond its borders, channel c
// is a box sum over x of S_v(z) = (I(z) - I(z + vector_v))^2, and two channels share each S_v. The box itself clamps x, not z, so that
// its sums are shared only away from the borders.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/exp.h"
#include "core/inline.h"

namespace regkit {

struct MindPairs {
  int neighbours = 0, channels = 0, vectors = 0;
  int offset[6][3] = {};
  int first[12] = {}, second[12] = {};
  int vector_of[12] = {}, vector[6][3] = {}, base[12][3] = {};  // base: first or second, so that both channels of a vector agree

  explicit MindPairs(int dims) {
    const int all[6][3] = {{-1, 0, 0}, {0, 0, -1}, {0, -1, 0}, {0, 0, 1}, {1, 0, 0}, {0, 1, 0}};
    for (const auto& s : all) {
      if (dims == 2 && s[0] != 0) continue;
      std::copy_n(s, 3, offset[neighbours++]);
    }
    for (int a = 0; a < neighbours; ++a)
      for (int b = 0; b < a; ++b) {
        int distance = 0;
        for (int d = 0; d < 3; ++d) distance += (offset[a][d] - offset[b][d]) * (offset[a][d] - offset[b][d]);
        if (distance == 2) add(a, b);
      }
  }

 private:
  void add(int a, int b) {
    first[channels] = a;
    second[channels] = b;
    // From the neighbour that comes later in memory to the one before: vectors point backwards.
    const bool later = std::lexicographical_compare(offset[b], offset[b] + 3, offset[a], offset[a] + 3);
    const int *from = offset[later ? a : b], *to = offset[later ? b : a];
    const int difference[3] = {to[0] - from[0], to[1] - from[1], to[2] - from[2]};
    int v = 0;
    while (v < vectors && !std::equal(difference, difference + 3, vector[v])) ++v;
    if (v == vectors) std::copy_n(difference, 3, vector[vectors++]);
    vector_of[channels] = v;
    std::copy_n(from, 3, base[channels++]);
  }
};

// The bounds of V; the least value keeps a constant image (V = 0) finite: its descriptors are 1. `box` is 1 where V is made of box means
// and the voxels of a box where it is made of their sums.
template <class T>
struct MindBounds {
  T low, high;
  REGKIT_INLINE MindBounds(T mean, T box) : low(T(1e-3) * mean), high(T(1e3) * mean) {
    const T least = T(1e-30) * box;
    low = low < least ? least : low;  // a NaN mean stays, and makes every descriptor NaN
    high = high < least ? least : high;
  }
  // Of one value, or of lanes of them.
  template <class Value>
  REGKIT_INLINE Value clamp(Value v) const {
    const Value lowest = Value{} + low, highest = Value{} + high, raised = v > lowest ? v : lowest;
    return raised < highest ? raised : highest;
  }
};

}  // namespace regkit
