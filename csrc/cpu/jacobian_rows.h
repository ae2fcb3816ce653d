// A row (along k) of the Jacobian determinant, and of its gradient: what the ops on it share.
//
// The determinant is made a vector at a time from the six neighbours. For the backward the differences of a row are written to small buffers
// (L1), then combined lane by lane. It gathers:
// the value u_c(y) enters the derivatives by axis d at the two neighbours of y along d (and at y itself on the border), so a row of the
// gradient is the sum of rows of g * cofactors taken there. Each of them needs one column of cofactors only, so recomputing costs about
// twice the forward and stores nothing.
#pragma once
#include <algorithm>
#include <cstring>
#include <vector>

#include "core/jacobian.h"
#include "cpu/jacobian.h"
#include "cpu/lanes.h"

namespace regkit {

template <int D, class T>
class JacobianRows {
 public:
  explicit JacobianRows(const JacobianSizes& s) : s_(s), nk_(s.size[2]), slopes_(D * D * nk_), term_(nk_) {}

  void determinant(const T* u, int64_t i, int64_t j, T* out) const {
    const int64_t at[2] = {i, j};
    Differences across[D - 1];
    for (int d = 0; d < D - 1; ++d) {
      const int axis = d + 3 - D;
      const Neighbours<T> near = neighbours<T>(at[axis], s_.size[axis]);
      const int64_t stride = axis == 0 ? s_.size[1] * nk_ : nk_;
      across[d] = {(near.low - at[axis]) * stride, (near.high - at[axis]) * stride, near.inverse};
    }
    const T* const centre = u + row(i, j);
    const auto one = [&](int64_t k) {
      const Neighbours<T> near = neighbours<T>(k, nk_);
      out[k] = determinant_of<T>(centre + k, across, {near.low - k, near.high - k, near.inverse});
    };
    const auto vector = [&](int64_t k) { store_lanes(out + k, determinant_of<Lanes<T>>(centre + k, across, {-1, 1, T(0.5)})); };
    constexpr int kLanes = kLaneCount<T>;
    one(0);
    if (nk_ > 1) one(nk_ - 1);
    if (nk_ - 2 < kLanes) {
      for (int64_t k = 1; k < nk_ - 1; ++k) one(k);
    } else {
      for (int64_t k = 1; k + kLanes <= nk_ - 1; k += kLanes) vector(k);
      vector(nk_ - 1 - kLanes);  // overlaps the one before: a scalar loop over the rest would cost as much as half a row of vectors
    }
  }

  // Row (i, j) of the gradient: out[c * voxels + k], pointers at the row's first voxel; u and g at the volume's.
  void gradient(const T* u, const T* g, int64_t i, int64_t j, T* out) {
    const int64_t voxels = s_.voxels(), at[2] = {i, j};
    for (int c = 0; c < D; ++c) std::fill_n(out + c * voxels, nk_, T(0));
    for (int d = 0; d < D - 1; ++d) {
      const int axis = d + 3 - D;
      const int64_t x = at[axis], n = s_.size[axis];
      if (n == 1) continue;
      const auto from = [&](int64_t source, T sign) {
        const int64_t row_i = axis == 0 ? source : i, row_j = axis == 1 ? source : j;
        other_slopes(u, row_i, row_j, d);
        for (int c = 0; c < D; ++c) add_cofactors(c, d, sign * neighbours<T>(source, n).inverse, g + row(row_i, row_j), out + c * voxels);
      };
      if (x > 0) from(x - 1, T(1));
      if (x < n - 1) from(x + 1, T(-1));
      if (x == 0) from(x, T(-1));
      if (x == n - 1) from(x, T(1));
    }
    if (nk_ == 1) return;
    other_slopes(u, i, j, D - 1);
    for (int c = 0; c < D; ++c) {
      std::fill(term_.begin(), term_.end(), T(0));
      add_cofactors(c, D - 1, T(0.5), g + row(i, j), term_.data());
      term_[0] *= 2;
      term_[nk_ - 1] *= 2;
      T* __restrict target = out + c * voxels;
      const T* term = term_.data();
      for (int64_t k = 1; k < nk_; ++k) target[k] += term[k - 1];
      for (int64_t k = 0; k < nk_ - 1; ++k) target[k] -= term[k + 1];
      target[0] -= term[0];
      target[nk_ - 1] += term[nk_ - 1];
    }
  }

 private:
  // A difference along an axis: (x[high] - x[low]) * inverse.
  struct Differences {
    int64_t low, high;
    T inverse;
  };

  // V determinants at a voxel, from its neighbours' offsets; c points at the first component.
  template <class V>
  V determinant_of(const T* c, const Differences (&across)[D - 1], const Differences& along) const {
    V m[D][D];  // m[d]: column d
    for (int d = 0; d < D; ++d) {
      const Differences& by = d < D - 1 ? across[d] : along;
      for (int a = 0; a < D; ++a) {
        V low, high;
        std::memcpy(&low, c + a * s_.voxels() + by.low, sizeof low);
        std::memcpy(&high, c + a * s_.voxels() + by.high, sizeof high);
        m[d][a] = (high - low) * by.inverse;
      }
      m[d][d] += 1;
    }
    if constexpr (D == 2) return m[0][0] * m[1][1] - m[0][1] * m[1][0];
    else return m[0][0] * cofactor(m[1][1], m[1][2], m[2][1], m[2][2]) + m[0][1] * cofactor(m[1][2], m[1][0], m[2][2], m[2][0]) +
                m[0][2] * cofactor(m[1][0], m[1][1], m[2][0], m[2][1]);
  }

  T* slope(int d, int c) { return slopes_.data() + (d * D + c) * nk_; }

  int64_t row(int64_t i, int64_t j) const { return (i * s_.size[1] + j) * nk_; }

  // Column d of the matrix along row (i, j).
  void slopes(const T* u, int64_t i, int64_t j, int d) {
    const int axis = d + 3 - D;
    for (int c = 0; c < D; ++c) {
      const T* component = u + c * s_.voxels();
      T* __restrict out = slope(d, c);
      const T one = c == d ? T(1) : T(0);
      if (axis == 2) {
        const T* values = component + row(i, j);
        for (int64_t k = 1; k < nk_ - 1; ++k) out[k] = (values[k + 1] - values[k - 1]) * T(0.5) + one;
        for (int64_t k : {int64_t(0), nk_ - 1}) {
          const Neighbours<T> near = neighbours<T>(k, nk_);
          out[k] = (values[near.high] - values[near.low]) * near.inverse + one;
        }
      } else {
        const Neighbours<T> near = neighbours<T>(axis == 0 ? i : j, s_.size[axis]);
        const T* low = component + (axis == 0 ? row(near.low, j) : row(i, near.low));
        const T* high = component + (axis == 0 ? row(near.high, j) : row(i, near.high));
        for (int64_t k = 0; k < nk_; ++k) out[k] = (high[k] - low[k]) * near.inverse + one;
      }
    }
  }

  // The columns that cof[.][d] is made of.
  void other_slopes(const T* u, int64_t i, int64_t j, int d) {
    for (int e = 1; e < D; ++e) slopes(u, i, j, (d + e) % D);
  }

  // out[k] += factor * weight[k] * cof[c][d], from the columns in the buffers. One output a loop: with more the compiler gives up on
  // vectors.
  void add_cofactors(int c, int d, T factor, const T* weight, T* __restrict out) {
    if constexpr (D == 3) {
      const int p = (c + 1) % 3, q = (c + 2) % 3;
      const int a = (d + 1) % 3, b = (d + 2) % 3;
      const T *a_p = slope(a, p), *a_q = slope(a, q), *b_p = slope(b, p), *b_q = slope(b, q);
      for (int64_t k = 0; k < nk_; ++k) out[k] += factor * weight[k] * cofactor(a_p[k], a_q[k], b_p[k], b_q[k]);
    } else {
      const T signed_factor = c == d ? factor : -factor;
      const T* other = slope(1 - d, 1 - c);
      for (int64_t k = 0; k < nk_; ++k) out[k] += signed_factor * weight[k] * other[k];
    }
  }

  const JacobianSizes& s_;
  const int64_t nk_;
  std::vector<T> slopes_, term_;
};

}  // namespace regkit
