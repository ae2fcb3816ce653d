// The fast path of warp: blocks whose samples all lie inside the image, which are nearly all blocks of a real registration.
//
// Inside, both cells of every axis exist, so that nothing is clamped or masked, and the 8 (2-D: 4) cells of a sample lie at fixed distances from
// one offset: one offset a sample is computed and taken out of the vector registers, and cells are loaded as pairs along k. Sampling costs half of
// what the general path does. The formulas and their order are those of core/warp.h, so both paths give the same result.
#pragma once
#include <cstring>

#include "cpu/warp.h"

namespace regkit {

template <int D, int lanes, class Index, class T>
struct InteriorBlock {
  alignas(64) Index offset[lanes];  // of the lowest cell
  alignas(64) T f[D][lanes];        // weight of the upper cell
};

// Fills the block from displacements `u` (one pointer an axis) of samples that start at `origin`; returns whether all of them are inside.
template <int D, int lanes, class Index, class T>
inline bool locate_interior(InteriorBlock<D, lanes, Index, T>& block, const T* const (&u)[D], const T (&origin)[D], const int64_t (&size)[D]) {
  int32_t outside[lanes] = {};
  for (int d = 0; d < D; ++d) {
    const T last = static_cast<T>(size[d] - 1);
    const Index n = static_cast<Index>(size[d]);
    for (int l = 0; l < lanes; ++l) {
      const T c = origin[d] + (d == D - 1 ? u[d][l] + static_cast<T>(l) : u[d][l]);
      T x = c > 0 ? c : T(0);
      x = x < last ? x : last;
      const int32_t low = static_cast<int32_t>(x);
      outside[l] |= !(c >= 0 && c < last);  // NaN is outside too
      block.f[d][l] = x - static_cast<T>(low);
      block.offset[l] = d == 0 ? static_cast<Index>(low) : block.offset[l] * n + static_cast<Index>(low);
    }
  }
  int32_t any = 0;
  for (int l = 0; l < lanes; ++l) any |= outside[l];
  return any == 0;
}

// The cells of every sample: low[r] and high[r] along k, for the 2^(D-1) rows r of cells (bit 0 is the upper one along j, bit 1 along i).
template <int D, int lanes, class T>
struct InteriorCells {
  static constexpr int rows = 1 << (D - 1);
  alignas(64) T low[rows][lanes], high[rows][lanes];
};

template <int D, int lanes, class Index, class T>
inline void load_interior(const InteriorBlock<D, lanes, Index, T>& block, const T* image, const int64_t (&size)[D], InteriorCells<D, lanes, T>& cells) {
  constexpr int rows = InteriorCells<D, lanes, T>::rows;
  alignas(64) T pairs[rows][2 * lanes];
  for (int r = 0; r < rows; ++r) {
    const T* row = image + (r & 1) * size[D - 1] + (r >> 1) * size[D - 1] * size[D - 2];
    for (int l = 0; l < lanes; ++l) std::memcpy(pairs[r] + 2 * l, row + block.offset[l], 2 * sizeof(T));
  }
  for (int r = 0; r < rows; ++r)
    for (int l = 0; l < lanes; ++l) cells.low[r][l] = pairs[r][2 * l], cells.high[r][l] = pairs[r][2 * l + 1];
}

// value = image(x + u(x))
template <int D, int lanes, class Index, class T>
inline void value_interior(const InteriorBlock<D, lanes, Index, T>& block, const InteriorCells<D, lanes, T>& cells, T* value) {
  constexpr int rows = InteriorCells<D, lanes, T>::rows;
  const T *fk = block.f[D - 1], *fj = block.f[D - 2], *fi = block.f[0];
  for (int l = 0; l < lanes; ++l) {
    T along[rows];
    for (int r = 0; r < rows; ++r) along[r] = (1 - fk[l]) * cells.low[r][l] + fk[l] * cells.high[r][l];
    if constexpr (D == 3) {
      value[l] = (1 - fi[l]) * ((1 - fj[l]) * along[0] + fj[l] * along[1]) + fi[l] * ((1 - fj[l]) * along[2] + fj[l] * along[3]);
    } else {
      value[l] = (1 - fj[l]) * along[0] + fj[l] * along[1];
    }
  }
}

// slope[d] = derivative of image(x + u(x)) by component d of u
template <int D, int lanes, class Index, class T>
inline void slope_interior(const InteriorBlock<D, lanes, Index, T>& block, const InteriorCells<D, lanes, T>& cells, T (*slope)[lanes]) {
  constexpr int rows = InteriorCells<D, lanes, T>::rows;
  const T *fk = block.f[D - 1], *fj = block.f[D - 2], *fi = block.f[0];
  for (int l = 0; l < lanes; ++l) {
    T along[rows], step[rows];
    for (int r = 0; r < rows; ++r) {
      step[r] = cells.high[r][l] - cells.low[r][l];
      along[r] = (1 - fk[l]) * cells.low[r][l] + fk[l] * cells.high[r][l];
    }
    if constexpr (D == 3) {
      slope[0][l] = (1 - fj[l]) * (along[2] - along[0]) + fj[l] * (along[3] - along[1]);
      slope[1][l] = (1 - fi[l]) * (along[1] - along[0]) + fi[l] * (along[3] - along[2]);
      slope[2][l] = (1 - fi[l]) * ((1 - fj[l]) * step[0] + fj[l] * step[1]) + fi[l] * ((1 - fj[l]) * step[2] + fj[l] * step[3]);
    } else {
      slope[0][l] = along[1] - along[0];
      slope[1][l] = (1 - fj[l]) * step[0] + fj[l] * step[1];
    }
  }
}

}  // namespace regkit
