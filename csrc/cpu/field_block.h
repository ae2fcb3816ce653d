// Samples of a packed displacement field, kLanes voxels of a row at a time.
//
// Where samples lie is computed with one voxel a lane; cells are then read voxel by voxel, with the components of two neighbours along k in one
// vector. The border needs no other code (core/field.h). Only the last voxels of the array are special: a vector there would reach past its end.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/field.h"
#include "cpu/field.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never leave inline functions

namespace regkit {

constexpr int kLanes = 16;

template <int D, class T>
constexpr int kPair = D == 3 ? 8 : 4;  // numbers in a vector that holds two neighbours

template <int N, class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <int D, class T>
using Pair = typename VectorOf<kPair<D, T>, T>::type;  // low: components [0, D), high: [D, 2D)
template <int D, class T>
using Cell = typename VectorOf<kPair<D, T> / 2, T>::type;  // one voxel

// Between D component rows and packed voxels, for a whole block: a few permutations, if the compiler knows that the pointers do not overlap, which it
// forgets when it inlines.
template <int D, class T>
[[gnu::noinline]] void interleave_block(const T* __restrict planar, int64_t component, T* __restrict packed) {
  for (int l = 0; l < kLanes; ++l)
    for (int d = 0; d < D; ++d) packed[l * D + d] = planar[d * component + l];
}
template <int D, class T>
[[gnu::noinline]] void deinterleave_block(const T* __restrict packed, T* __restrict planar, int64_t component) {
  T rows[D][kLanes];
  for (int l = 0; l < kLanes; ++l)
    for (int d = 0; d < D; ++d) rows[d][l] = packed[l * D + d];
  for (int d = 0; d < D; ++d)
    for (int l = 0; l < kLanes; ++l) planar[d * component + l] = rows[d][l];
}

template <int D, class T>
inline void interleave(const T* planar, int64_t component, T* packed, int lanes) {
  if (lanes == kLanes) return interleave_block<D>(planar, component, packed);
  for (int l = 0; l < lanes; ++l)
    for (int d = 0; d < D; ++d) packed[l * D + d] = planar[d * component + l];
}
template <int D, class T>
inline void deinterleave(const T* packed, T* planar, int64_t component, int lanes) {
  if (lanes == kLanes) return deinterleave_block<D>(packed, planar, component);
  for (int l = 0; l < lanes; ++l)
    for (int d = 0; d < D; ++d) planar[d * component + l] = packed[l * D + d];
}

template <int width, class T>
inline void copy_block(const T* from, T* to, int lanes) {
  if (lanes == kLanes) std::memcpy(to, from, kLanes * width * sizeof(T));
  else std::memcpy(to, from, lanes * width * sizeof(T));
}

// Fields (batch, voxels) of either layout, a block of a row at a time: as packed voxels, or as D rows of kLanes.
template <int D, class T>
struct PlanarField {
  T* data;
  int64_t voxels;
  T* at(int64_t b, int64_t voxel) const { return data + b * D * voxels + voxel; }
  template <class U>
  void read_packed(int64_t b, int64_t voxel, int lanes, U* packed) const {
    interleave<D, U>(at(b, voxel), voxels, packed, lanes);
  }
  template <class U>
  void read_rows(int64_t b, int64_t voxel, int lanes, U (&rows)[D][kLanes]) const {
    for (int d = 0; d < D; ++d) copy_block<1, U>(at(b, voxel) + d * voxels, rows[d], lanes);
  }
  template <class U>
  void write_packed(int64_t b, int64_t voxel, int lanes, const U* packed) const {
    deinterleave<D, U>(packed, at(b, voxel), voxels, lanes);
  }
};
template <int D, class T>
struct PackedField {
  T* data;
  int64_t voxels;
  T* at(int64_t b, int64_t voxel) const { return data + (b * voxels + voxel) * D; }
  template <class U>
  void read_packed(int64_t b, int64_t voxel, int lanes, U* packed) const {
    copy_block<D, U>(at(b, voxel), packed, lanes);
  }
  template <class U>
  void read_rows(int64_t b, int64_t voxel, int lanes, U (&rows)[D][kLanes]) const {
    deinterleave<D, U>(at(b, voxel), rows[0], kLanes, lanes);
  }
  template <class U>
  void write_packed(int64_t b, int64_t voxel, int lanes, const U* packed) const {
    copy_block<D, U>(packed, at(b, voxel), lanes);
  }
};

// The shape of a field with its axes in use only.
template <int D>
struct Extent {
  int64_t n[D];
  explicit Extent(const int64_t (&size)[3]) { std::copy_n(size + 3 - D, D, n); }
  int64_t rows() const { return D == 3 ? n[0] * n[1] : n[0]; }
  int64_t voxels() const { return rows() * n[D - 1]; }
  // Index of a row along every axis but the last.
  void row(int64_t r, int64_t (&at)[D]) const {
    at[D - 2] = r % n[D - 2];
    if constexpr (D == 3) at[0] = r / n[1];
  }
};

// Distances in numbers between the 2^(D-1) runs of cells of a sample (bit 0: upper along j, bit 1: upper along i); 0 along an axis of one voxel.
template <int D>
struct Runs {
  static constexpr int kCount = 1 << (D - 1);
  int64_t offset[kCount];
  int64_t line;  // numbers in a row along k
  explicit Runs(const Extent<D>& e) : line(e.n[D - 1] * D) {
    const int64_t along_j = e.n[D - 2] > 1 ? line : 0, along_i = D == 3 && e.n[0] > 1 ? e.n[D - 2] * line : 0;
    for (int r = 0; r < kCount; ++r) offset[r] = (r & 1) * along_j + (r >> 1) * along_i;
  }
};

template <int D, class Index, class T>
struct Samples {
  alignas(64) Index offset[kLanes];  // voxel of the lowest cell
  alignas(64) T f[D][kLanes], moves[D][kLanes];
  Index lowest, highest;  // of the offsets
  bool known;             // no coordinate is NaN
  bool inside_array;      // a whole vector may be read at every run of every sample
};

// shift + x for the voxels of a row from k0 on.
template <int D, class T>
inline void add_positions(T (&shift)[D][kLanes], const int64_t (&at)[D], int64_t k0) {
  for (int d = 0; d < D; ++d)
    for (int l = 0; l < kLanes; ++l) shift[d][l] += d == D - 1 ? static_cast<T>(static_cast<int32_t>(k0) + l) : static_cast<T>(at[d]);
}

// readable: voxels of the array from this volume's first to its end.
template <int D, class Index, class T>
inline void locate(Samples<D, Index, T>& s, const T (&c)[D][kLanes], const Extent<D>& e, const Runs<D>& runs, int64_t readable) {
  for (int d = 0; d < D; ++d) {
    const int32_t n = static_cast<int32_t>(e.n[d]);
    for (int l = 0; l < kLanes; ++l) {
      const FieldCell<T> cell = field_cell(c[d][l], n);
      s.f[d][l] = cell.f;
      s.moves[d][l] = cell.moves;
      s.offset[l] = d == 0 ? static_cast<Index>(cell.low) : s.offset[l] * static_cast<Index>(n) + static_cast<Index>(cell.low);
    }
  }
  Index lowest = s.offset[0], highest = s.offset[0];
  int32_t unknown = 0;
  for (int d = 0; d < D; ++d)
    for (int l = 0; l < kLanes; ++l) unknown |= s.f[d][l] != s.f[d][l];
  s.known = !unknown;
  for (int l = 0; l < kLanes; ++l) {
    lowest = std::min(lowest, s.offset[l]);
    highest = std::max(highest, s.offset[l]);
  }
  s.lowest = lowest;
  s.highest = highest;
  s.inside_array = e.n[D - 1] > 1 && int64_t(highest) * D + runs.offset[Runs<D>::kCount - 1] + kPair<D, T> <= readable * D;
}

// Two neighbours along k. Where a whole vector would reach past the array, only the `numbers` that exist are read; the sums are the same code.
template <int D, class T>
inline void load_pair(Pair<D, T>& pair, const T* source, bool whole, int numbers) {
  if (whole) {
    std::memcpy(&pair, source, sizeof pair);
  } else {
    T some[kPair<D, T>] = {};
    for (int n = 0; n < numbers; ++n) some[n] = source[n];
    std::memcpy(&pair, some, sizeof pair);
  }
}

// Splits a pair into its two voxels.
template <int D, class T>
inline void split(const Pair<D, T>& pair, Cell<D, T>& low, Cell<D, T>& high) {
  if constexpr (D == 3) {
    low = __builtin_shufflevector(pair, pair, 0, 1, 2, 3);  // what follows the third number is another voxel's, and never used
    high = __builtin_shufflevector(pair, pair, 3, 4, 5, 6);
  } else {
    low = __builtin_shufflevector(pair, pair, 0, 1);
    high = __builtin_shufflevector(pair, pair, 2, 3);
  }
}

// A voxel twice, times 1 - f and times f; then zeros. `cell` may be read one number too far.
template <int D, class T>
inline void spread(const T* source, T f, Pair<D, T>& pair) {
  typedef typename VectorOf<kPair<D, T>, std::conditional_t<sizeof(T) == 8, int64_t, int32_t>>::type Choice;
  Cell<D, T> cell;
  std::memcpy(&cell, source, sizeof cell);
  const Pair<D, T> low = Pair<D, T>{} + (1 - f), high = Pair<D, T>{} + f;
  if constexpr (D == 3) {
    const Cell<3, T> zero = {};
    const Choice is_low = {-1, -1, -1, 0, 0, 0, 0, 0};
    pair = __builtin_shufflevector(cell, zero, 0, 1, 2, 0, 1, 2, 4, 4) * (is_low ? low : high);
  } else {
    const Choice is_low = {-1, -1, 0, 0};
    pair = __builtin_shufflevector(cell, cell, 0, 1, 0, 1) * (is_low ? low : high);
  }
}

// row[d] = sum over c of m[d][c]: the numbers of D cells, added up cell by cell. What comes after the D-th number is left open.
template <int D, class T>
inline void sum_cells(const Cell<D, T> (&m)[D], Cell<D, T>& row) {
  if constexpr (D == 3) {
    const Cell<3, T> first = __builtin_shufflevector(m[0], m[1], 0, 4, 1, 5), third = __builtin_shufflevector(m[0], m[1], 2, 6, 3, 7);
    row = __builtin_shufflevector(first, m[2], 0, 1, 4, 5) + __builtin_shufflevector(first, m[2], 2, 3, 5, 5) + __builtin_shufflevector(third, m[2], 0, 1, 6, 6);
  } else {
    row = __builtin_shufflevector(m[0], m[1], 0, 2) + __builtin_shufflevector(m[0], m[1], 1, 3);
  }
}

// Weights of the runs of every sample.
template <int D, class Index, class T>
inline void run_weights(const Samples<D, Index, T>& s, T (&weight)[1 << (D - 1)][kLanes]) {
  const T *fj = s.f[D - 2], *fi = s.f[0];
  for (int l = 0; l < kLanes; ++l) {
    if constexpr (D == 3) {
      weight[0][l] = (1 - fi[l]) * (1 - fj[l]);
      weight[1][l] = (1 - fi[l]) * fj[l];
      weight[2][l] = fi[l] * (1 - fj[l]);
      weight[3][l] = fi[l] * fj[l];
    } else {
      weight[0][l] = 1 - fj[l];
      weight[1][l] = fj[l];
    }
  }
}

// value[l * D + d] = component d of the field at sample l; value has room for kLanes * D + 1 numbers.
template <int D, class Index, class T>
inline void sample(const Samples<D, Index, T>& s, const T* field, const Extent<D>& e, const Runs<D>& runs, int lanes, T* value) {
  constexpr int kCount = Runs<D>::kCount;
  alignas(64) T weight[kCount][kLanes], rest[kLanes];
  alignas(64) Index start[kLanes];
  run_weights(s, weight);
  const bool whole = s.inside_array;
  const int numbers = e.n[D - 1] > 1 ? 2 * D : D;
  for (int l = 0; l < kLanes; ++l) rest[l] = 1 - s.f[D - 1][l];
  for (int l = 0; l < kLanes; ++l) start[l] = s.offset[l];
  const T* run[kCount];
  for (int r = 0; r < kCount; ++r) run[r] = field + runs.offset[r];
  // What the samples of the next row of voxels will touch first; every fifth lane reaches every cache line.
  for (int l = 0; l < kLanes; l += 5) __builtin_prefetch(run[kCount - 1] + runs.line + static_cast<int64_t>(start[l]) * D);
  for (int l = 0; l < lanes; ++l) {
    const int64_t cell = static_cast<int64_t>(start[l]) * D;
    Pair<D, T> sum, pair;
    load_pair<D>(sum, run[0] + cell, whole, numbers);
    sum *= weight[0][l];
    for (int r = 1; r < kCount; ++r) {
      load_pair<D>(pair, run[r] + cell, whole, numbers);
      sum += weight[r][l] * pair;
    }
    Cell<D, T> low, high;
    split<D, T>(sum, low, high);
    low = rest[l] * low + s.f[D - 1][l] * high;
    std::memcpy(value + l * D, &low, sizeof low);  // the fourth number is overwritten by the next voxel
  }
}

// Calls call(D, index type) as compile-time constants. Voxel numbers within a volume fit 32 bits up to 2^31 voxels.
template <class Call>
void specialise_field(const FieldSizes& s, Call&& call) {
  const bool wide = s.field_voxels() >= (int64_t(1) << 31);
  const auto by_index = [&](auto dims) {
    if (wide) call(dims, int64_t{});
    else call(dims, int32_t{});
  };
  if (s.dims == 3) by_index(std::integral_constant<int, 3>{});
  else by_index(std::integral_constant<int, 2>{});
}

}  // namespace regkit
