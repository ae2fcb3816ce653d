// A displacement field sampled with its border repeated: where a sample lies, shared by composition, integration and inversion.
//
// Fields are only ever continued by their edge, so that a coordinate is clamped and its cell moved inside: low = min(floor(x), n - 2), f = x - low.
// Both cells of every axis then exist and kernels need no second path at the border; at the far edge f is 1. On an axis of one voxel low = f = 0, and
// a kernel reads the one cell twice. Values and derivatives are those of core/warp.h with Padding::border.
#pragma once
#include <cstdint>

#include "core/inline.h"

namespace regkit {

template <class T>
struct FieldCell {
  int32_t low;
  T f;      // weight of the upper cell; NaN for a NaN coordinate
  T moves;  // derivative of the clamped coordinate: 1 inside, 0 outside
};

template <class T>
REGKIT_INLINE FieldCell<T> field_cell(T c, int32_t n) {
  const T last = static_cast<T>(n - 1);
  T x = c > 0 ? c : T(0);
  x = x < last ? x : last;
  const int32_t below = static_cast<int32_t>(x), highest = n > 1 ? n - 2 : 0;
  FieldCell<T> cell;
  cell.low = below < highest ? below : highest;
  const T f = x - static_cast<T>(cell.low);
  cell.f = c == c ? f : c;
  cell.moves = c == c ? (c >= 0 && c < last ? T(1) : T(0)) : c;
  return cell;
}

}  // namespace regkit
