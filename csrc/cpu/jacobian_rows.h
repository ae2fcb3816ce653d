// A row (along k) of the Jacobian determinant, and of its gradient: what the ops on it share.
//
// Both are made a vector at a time from the neighbours of its voxels, whose rows are in cache. The gradient gathers: the value u_c(y) enters the
// derivatives by axis d at two voxels (the neighbours of y along d; at the border y itself), with weights g * cofactor there. Cofactors of
// column d are made of the other columns, for which all voxels along d have the same steps to their neighbours. Computing them anew takes 78
// loads a vector in 3-D and stores nothing.
#pragma once
#include <cstring>
#include <utility>

#include "core/jacobian.h"
#include "cpu/jacobian.h"
#include "cpu/lanes.h"

namespace regkit {

template <int D, class T>
class JacobianRows {
 public:
  explicit JacobianRows(const JacobianSizes& s) : s_(s), nk_(s.size[2]) {}

  // out[k] of row (i, j); u at the volume's first voxel.
  void determinant(const T* u, int64_t i, int64_t j, T* out) const {
    Differences by[D];
    across(i, j, by);
    const T* const c = u + row(i, j);
    for_row(
        1, [&](int64_t k) { out[k] = determinant_of<T>(c + k, along(k, by)); },
        [&](int64_t k) { store_lanes(out + k, determinant_of<Lanes<T>>(c + k, inside(by))); });
  }

  // Row (i, j) of the gradient: out[c * voxels + k], out at the row's first voxel; u and g at the volume's.
  void gradient(const T* u, const T* g, int64_t i, int64_t j, T* out) const {
    const int64_t at[2] = {i, j};
    Differences by[D];
    Sources from[D];
    across(i, j, by);
    for (int d = 0; d < D - 1; ++d) from[d] = sources(at[d + 3 - D], s_.size[d + 3 - D], stride(d + 3 - D));
    const T *const c = u + row(i, j), *const weights = g + row(i, j);
    for_row(
        2,
        [&](int64_t k) {
          from[D - 1] = sources(k, nk_, 1);
          T sum[D] = {};
          add_all_terms<T>(c + k, weights + k, along(k, by), from, sum);
          for (int a = 0; a < D; ++a) out[a * s_.voxels() + k] = sum[a];
        },
        [&](int64_t k) {
          from[D - 1] = {-1, 1, T(0.5), T(-0.5)};
          Lanes<T> sum[D] = {};
          add_all_terms<Lanes<T>>(c + k, weights + k, inside(by), from, sum);
          for (int a = 0; a < D; ++a) store_lanes(out + a * s_.voxels() + k, sum[a]);
        });
  }

 private:
  // A difference along an axis: (x[high] - x[low]) * inverse, offsets being relative to the voxel.
  struct Differences {
    int64_t low, high;
    T inverse;
  };
  // The two voxels along an axis whose differences a value enters, and by what.
  struct Sources {
    int64_t low, high;
    T of_low, of_high;
  };
  struct AllDifferences {
    Differences by[D];
  };

  int64_t row(int64_t i, int64_t j) const { return (i * s_.size[1] + j) * nk_; }
  int64_t stride(int axis) const { return axis == 0 ? s_.size[1] * nk_ : axis == 1 ? nk_ : 1; }

  static Differences differences(int64_t x, int64_t n, int64_t stride) {
    const Neighbours<T> near = neighbours<T>(x, n);
    return {(near.low - x) * stride, (near.high - x) * stride, near.inverse};
  }
  static Sources sources(int64_t x, int64_t n, int64_t stride) {
    const int64_t low = x > 0 ? x - 1 : 0, high = x < n - 1 ? x + 1 : n - 1;
    return {(low - x) * stride, (high - x) * stride, (x > 0 ? T(1) : T(-1)) * neighbours<T>(low, n).inverse,
            (x < n - 1 ? T(-1) : T(1)) * neighbours<T>(high, n).inverse};
  }

  void across(int64_t i, int64_t j, Differences (&by)[D]) const {
    const int64_t at[2] = {i, j};
    for (int d = 0; d < D - 1; ++d) by[d] = differences(at[d + 3 - D], s_.size[d + 3 - D], stride(d + 3 - D));
  }
  // The last axis is k: at the border, and away from it.
  AllDifferences along(int64_t k, const Differences (&by)[D]) const { return with(by, differences(k, nk_, 1)); }
  AllDifferences inside(const Differences (&by)[D]) const { return with(by, {-1, 1, T(0.5)}); }
  static AllDifferences with(const Differences (&by)[D], const Differences& last) {
    AllDifferences all;
    for (int d = 0; d < D - 1; ++d) all.by[d] = by[d];
    all.by[D - 1] = last;
    return all;
  }

  // Calls one(k) for the `border` voxels at each end of a row, vector(k) between. The last vector overlaps the one before: a loop over single
  // voxels would cost as much as half a row of vectors.
  template <class One, class Vector>
  void for_row(int64_t border, One&& one, Vector&& vector) const {
    constexpr int kLanes = kLaneCount<T>;
    const int64_t end = nk_ - border;
    if (end - border < kLanes) {
      for (int64_t k = 0; k < nk_; ++k) one(k);
      return;
    }
    for (int64_t k = 0; k < border; ++k) one(k), one(nk_ - 1 - k);
    for (int64_t k = border; k + kLanes <= end; k += kLanes) vector(k);
    vector(end - kLanes);
  }

  // Column d of the matrix at V voxels; c points at the first component.
  template <class V>
  void column(const T* c, int d, const Differences& by, V (&out)[D]) const {
    for (int a = 0; a < D; ++a) {
      V low, high;
      std::memcpy(&low, c + a * s_.voxels() + by.low, sizeof low);
      std::memcpy(&high, c + a * s_.voxels() + by.high, sizeof high);
      out[a] = (high - low) * by.inverse + (a == d ? T(1) : T(0));
    }
  }

  template <class V>
  V determinant_of(const T* c, const AllDifferences& all) const {
    V m[D][D];
    for (int d = 0; d < D; ++d) column(c, d, all.by[d], m[d]);
    if constexpr (D == 2) {
      return m[0][0] * m[1][1] - m[0][1] * m[1][0];
    } else {
      return m[0][0] * cofactor(m[1][1], m[1][2], m[2][1], m[2][2]) + m[0][1] * cofactor(m[1][2], m[1][0], m[2][2], m[2][0]) +
             m[0][2] * cofactor(m[1][0], m[1][1], m[2][0], m[2][1]);
    }
  }

  // sum[a] += weight * g * cof[a][d] at both sources along axis d.
  template <int d, class V>
  void add_terms(const T* c, const T* g, const AllDifferences& all, const Sources& from, V (&sum)[D]) const {
    for (const auto& [offset, weight] : {std::pair(from.low, from.of_low), std::pair(from.high, from.of_high)}) {
      V scaled;
      std::memcpy(&scaled, g + offset, sizeof scaled);
      scaled *= weight;
      V first[D];
      constexpr int e = (d + 1) % D;
      column(c + offset, e, all.by[e], first);
      if constexpr (D == 3) {
        V second[D];
        constexpr int f = (d + 2) % D;
        column(c + offset, f, all.by[f], second);
        for (int a = 0; a < D; ++a) {
          const int p = (a + 1) % 3, q = (a + 2) % 3;
          sum[a] += scaled * cofactor(first[p], first[q], second[p], second[q]);
        }
      } else {
        for (int a = 0; a < D; ++a) sum[a] += (a == d ? scaled : -scaled) * first[1 - a];
      }
    }
  }

  template <class V>
  void add_all_terms(const T* c, const T* g, const AllDifferences& all, const Sources (&from)[D], V (&sum)[D]) const {
    add_terms<0>(c, g, all, from[0], sum);
    add_terms<1>(c, g, all, from[1], sum);
    if constexpr (D == 3) add_terms<2>(c, g, all, from[2], sum);
  }

  const JacobianSizes& s_;
  const int64_t nk_;
};

}  // namespace regkit
