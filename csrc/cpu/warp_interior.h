// The fast path of warp: blocks whose samples all lie inside the image, which are nearly all blocks of a real registration.
//
// Inside, both cells of every axis exist, so that nothing is clamped or masked, and the 8 (2-D: 4) cells of a sample lie at fixed distances from
// one offset: one offset a sample is computed and taken out of the vector registers, and cells are loaded as pairs along k. Sampling costs half of
// what the general path does. The formulas and their order are those of core/warp.h, so both paths give the same result.
#pragma once
#include <cstring>
#include <utility>

#include "core/inline.h"
#include "cpu/convert.h"
#include "cpu/lanes.h"
#include "cpu/warp.h"

namespace regkit {

template <int D, int lanes, class Index, class T>
struct InteriorBlock {
  alignas(64) Index offset[lanes];  // of the lowest cell
  alignas(64) T f[D][lanes];        // weight of the upper cell
};

// Fills the block from displacements `u` (one pointer an axis) of samples that start at `origin`; returns whether all of them are inside.
template <int D, int lanes, class Index, class T>
REGKIT_INLINE bool locate_interior(InteriorBlock<D, lanes, Index, T>& block, const T* const (&u)[D], const T (&origin)[D], const int64_t (&size)[D]) {
  constexpr int L = kLaneCount<T>;
  static_assert(lanes % L == 0);
  typedef int32_t Integers __attribute__((vector_size(L * sizeof(int32_t))));
  typedef Index Indices __attribute__((vector_size(L * sizeof(Index))));
  Lanes<T> along = {};
  for (int l = 0; l < L; ++l) along[l] = static_cast<T>(l);
  auto inside = along == along;
  for (int first = 0; first < lanes; first += L) {
    Indices offset = {};
    for (int d = 0; d < D; ++d) {
      Lanes<T> c = load_lanes(u[d] + first);
      if (d == D - 1) c += along + static_cast<T>(first);
      c += origin[d];
      const auto in = (c >= 0) & (c < static_cast<T>(size[d] - 1));  // NaN is outside
      inside &= in;
      const Lanes<T> x = in ? c : Lanes<T>{};
      const Integers low = __builtin_convertvector(x, Integers);
      store_lanes(block.f[d] + first, x - __builtin_convertvector(low, Lanes<T>));
      offset = offset * static_cast<Index>(size[d]) + __builtin_convertvector(low, Indices);
    }
    std::memcpy(block.offset + first, &offset, sizeof offset);
  }
  auto all = inside[0];
  for (int l = 1; l < L; ++l) all &= inside[l];
  return all != 0;
}

// low[l] = row[offset[l]], high[l] = row[offset[l] + 1] for one register of lanes; I = 0 ... half a register. A pair of float32 is loaded as one
// number of twice the width, so that pairs are put together in registers and not by way of memory, where wide loads wait for narrow stores.
template <class Index, size_t... I>
REGKIT_INLINE void load_pairs(const float* row, const Index* offset, float* low, float* high, std::index_sequence<I...>) {
  constexpr int half = sizeof...(I);
  const auto pair = [&](size_t l) __attribute__((always_inline)) {
    double both;
    std::memcpy(&both, row + offset[l], sizeof both);
    return both;
  };
  const Lanes<double> lower = {pair(I)...}, upper = {pair(half + I)...};
  const Lanes<float> a = (Lanes<float>)lower, b = (Lanes<float>)upper;
  store_lanes(low, __builtin_shufflevector(a, b, (2 * static_cast<int>(I))..., (2 * half + 2 * static_cast<int>(I))...));
  store_lanes(high, __builtin_shufflevector(a, b, (2 * static_cast<int>(I) + 1)..., (2 * half + 2 * static_cast<int>(I) + 1)...));
}

template <class Index, size_t... I>
REGKIT_INLINE void load_pairs(const double* row, const Index* offset, double* low, double* high, std::index_sequence<I...>) {
  for (int l = 0; l < kLaneCount<double>; ++l) low[l] = row[offset[l]], high[l] = row[offset[l] + 1];
}

// Pairs of halves are one word of 32 bits each.
template <class Half, class Index, size_t... I>
REGKIT_INLINE void load_pairs(const Half* row, const Index* offset, float* low, float* high, std::index_sequence<I...>) {
  constexpr int half = sizeof...(I);
  const auto pair = [&](size_t l) __attribute__((always_inline)) {
    uint32_t both;
    std::memcpy(&both, row + offset[l], sizeof both);
    return both;
  };
  const WordLanes words = {pair(I)..., pair(half + I)...};
  if constexpr (std::is_same_v<Half, bfloat16>) {
    store_lanes(low, (Lanes<float>)(words << 16));
    store_lanes(high, (Lanes<float>)(words & 0xffff0000u));
  } else {
    Half halves[2][2 * half];
    const HalfLanes lower = __builtin_convertvector(words, HalfLanes), upper = __builtin_convertvector(words >> 16, HalfLanes);
    std::memcpy(halves[0], &lower, sizeof lower);
    std::memcpy(halves[1], &upper, sizeof upper);
    store_lanes(low, load_as_lanes(halves[0]));
    store_lanes(high, load_as_lanes(halves[1]));
  }
}

// The cells of every sample: low[r] and high[r] along k, for the 2^(D-1) rows r of cells (bit 0 is the upper one along j, bit 1 along i).
template <int D, int lanes, class T>
struct InteriorCells {
  static constexpr int rows = 1 << (D - 1);
  alignas(64) T low[rows][lanes], high[rows][lanes];
};

template <int D, int lanes, class Index, class T, class Stored>
REGKIT_INLINE void load_interior(const InteriorBlock<D, lanes, Index, T>& block, const Stored* image, const int64_t (&size)[D], InteriorCells<D, lanes, T>& cells) {
  constexpr int L = kLaneCount<T>;
  for (int r = 0; r < InteriorCells<D, lanes, T>::rows; ++r) {
    const Stored* row = image + (r & 1) * size[D - 1] + (r >> 1) * size[D - 1] * size[D - 2];
    for (int l = 0; l < lanes; l += L) load_pairs(row, block.offset + l, cells.low[r] + l, cells.high[r] + l, std::make_index_sequence<L / 2>{});
  }
}

// value = image(x + u(x))
template <int D, int lanes, class Index, class T>
REGKIT_INLINE void value_interior(const InteriorBlock<D, lanes, Index, T>& block, const InteriorCells<D, lanes, T>& cells, T* value) {
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
REGKIT_INLINE void slope_interior(const InteriorBlock<D, lanes, Index, T>& block, const InteriorCells<D, lanes, T>& cells, T (*slope)[lanes]) {
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
