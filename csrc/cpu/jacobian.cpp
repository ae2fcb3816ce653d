// Jacobian determinant on the CPU. Bytes a voxel (3-D, float32): forward 12 + 4; backward 12 + 4 + 12, the neighbouring rows coming from
// cache.
//
// Work goes by rows along k: the differences of a row are written to small buffers (L1), then combined lane by lane. The backward gathers:
// the value u_c(y) enters the derivatives by axis d at the two neighbours of y along d (and at y itself on the border), so a row of the
// gradient is the sum of rows of g * cofactors taken there. Each of them needs one column of cofactors only, so recomputing costs about
// twice the forward and stores nothing.
#include "jacobian.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/jacobian.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;

template <int D, class T>
class Rows {
 public:
  Rows(const JacobianSizes& s) : s_(s), nk_(s.size[2]), slopes_(D * D * nk_), term_(nk_) {}

  void determinant(const T* u, int64_t i, int64_t j, T* out) {
    for (int d = 0; d < D; ++d) slopes(u, i, j, d);
    std::fill_n(out, nk_, T(0));
    for (int c = 0; c < D; ++c) add_cofactors(c, 0, T(1), slope(0, c), out);
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

// Calls visit(rows, b, i, j) for every row of the batch; rows is a Rows<D, T> of its job.
template <class T, class Visit>
void for_rows(const JacobianSizes& s, int threads, Visit&& visit) {
  const Chunks chunks{s.size[2] > 0 ? s.batch * s.size[0] * s.size[1] : 0, kRowsPerJob};
  const auto job_of = [&](auto dims, int64_t job) {
    Rows<dims.value, T> rows(s);
    for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r)
      visit(rows, r / (s.size[0] * s.size[1]), r / s.size[1] % s.size[0], r % s.size[1]);
  };
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    if (s.dims == 3) job_of(std::integral_constant<int, 3>{}, job);
    else job_of(std::integral_constant<int, 2>{}, job);
  });
}

}  // namespace

template <class T>
void jacobian_determinant(const T* u, T* determinant, const JacobianSizes& s, int threads) {
  advise_large_pages(determinant, s.batch * s.voxels());
  for_rows<T>(s, threads, [&](auto& rows, int64_t b, int64_t i, int64_t j) {
    rows.determinant(u + b * s.dims * s.voxels(), i, j, determinant + b * s.voxels() + (i * s.size[1] + j) * s.size[2]);
  });
}

template <class T>
void jacobian_determinant_grad(const T* grad_out, const T* u, T* grad_u, const JacobianSizes& s, int threads) {
  advise_large_pages(grad_u, s.batch * s.dims * s.voxels());
  for_rows<T>(s, threads, [&](auto& rows, int64_t b, int64_t i, int64_t j) {
    const int64_t volume = b * s.dims * s.voxels();
    rows.gradient(u + volume, grad_out + b * s.voxels(), i, j, grad_u + volume + (i * s.size[1] + j) * s.size[2]);
  });
}

#define REGKIT_INSTANTIATE(T)                                                                \
  template void jacobian_determinant<T>(const T*, T*, const JacobianSizes&, int);            \
  template void jacobian_determinant_grad<T>(const T*, const T*, T*, const JacobianSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
