// The plane sweep of local NCC: value and gradients of one tile, whatever its images are.
//
// A job is one tile of rows (j) and one chunk of planes (i) of one volume, all of k. Marching along i it keeps, for the tile,
//   planes   the five products summed over the window along i: plus the plane that enters, minus the plane that leaves;
//   row      those summed along j, in the same way, row by row;
//   boxes    those summed along k by doubling (1, 2, 4, 8 ... neighbours), which is exact and vectorises;
// so that lanes always run along k. With gradients, the adjoints of each plane go through the same three sums a second time, half a window
// behind. All of this happens row by row, while a row is in the nearest cache.
// Adjoints span many orders of magnitude (1 / variance), hence running sums of them are kept in double: what left the window leaves no
// trace.
// Chunks restart the running sums, which bounds the drift. Images are shifted by about their mean: without it the variance of a bright image
// is all rounding.
// The zeros outside the image are -shift then. They stay out of the running sums, where they would leave rounding errors behind them, and
// are added to each window from the number of its voxels that lie outside.
#pragma once
#include <algorithm>
#include <vector>

#include "core/lncc.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"

namespace regkit {

constexpr int kLnccSums = 5;  // a, b, aa, bb, ab

template <class T>
struct LnccShape {
  int64_t size[3];    // i = 1 in 2-D
  int64_t window[3];  // odd; 1 along i in 2-D
  T eps;
};

struct LnccTile {
  int64_t i0, i1, j0, j1;
};

// The tiles of a volume: the same for every number of threads. A tile also visits the rows and planes that its windows reach, so that it is to be
// large beside the window; of at most `planes` planes where the window allows.
class LnccTiling {
 public:
  template <class T>
  LnccTiling(const LnccShape<T>& shape, int64_t planes)
      : planes_(split(shape.size[0], std::max(planes, 4 * shape.window[0]))),
        rows_(split(shape.size[1], shape.size[0] > 1 && shape.size[0] * shape.size[1] * shape.size[2] < kSmall
                                       ? std::max<int64_t>(32, 3 * shape.window[1])
                                       : std::max<int64_t>(64, 4 * shape.window[1]))) {}
  int64_t count() const { return planes_.count() * rows_.count(); }
  LnccTile operator[](int64_t tile) const {
    const int64_t p = tile / rows_.count(), r = tile % rows_.count();
    return {planes_.begin(p), planes_.end(p), rows_.begin(r), rows_.end(r)};
  }

 private:
  // Voxels below which a volume would be one tile, and so one thread's.
  static constexpr int64_t kSmall = 1 << 20;

  static Chunks split(int64_t n, int64_t target) {
    const int64_t pieces = std::max<int64_t>(1, (n + target - 1) / target);
    return {n, (n + pieces - 1) / pieces};
  }
  Chunks planes_, rows_;
};

// out[k] = in[k] + ... + in[k + window - 1] for k < n. All rows have room for n + window - 1 values and two vectors more; `work` is overwritten.
template <class T>
REGKIT_INLINE void box_row(const T* in, T* work, T* out, int64_t n, int64_t window) {
  constexpr int64_t L = kLaneCount<T>;
  if (window == 1) {
    std::copy_n(in, n, out);
    return;
  }
  const T *sums = in, *taken = in;  // sums: of `span` neighbours; taken: of the first `done`
  int64_t done = 1, span = 1;
  while (4 * span <= window) {
    const int64_t length = n + window - 2 * span;
    for (int64_t k = 0; k < length; k += L) store_lanes(work + k, load_lanes(sums + k) + load_lanes(sums + k + span));
    sums = work;
    span *= 2;
    if (window & span) {
      for (int64_t k = 0; k < n; k += L) store_lanes(out + k, load_lanes(taken + k) + load_lanes(work + k + done));
      taken = out;
      done += span;
    }
  }
  for (int64_t k = 0; k < n; k += L) store_lanes(out + k, load_lanes(taken + k) + load_lanes(sums + k + done) + load_lanes(sums + k + done + span));
}

// `Images` gives and takes rows of n_k values:
//   enter(i, j)            comes once for each row before any use of it, rows and planes ascending
//   a(i, j), b(i, j)       rows of the images; asked for while they are in the window
//   weight(i, j)           a row of the weight, or null for ones
//   value(i, j, ncc)       takes the map, for the rows of the tile
//   gradient(i, j, boxes)  takes the box sums of the adjoints: cross, then square and linear of each image that needs a gradient
template <class T, class Images>
class LnccSweep {
 public:
  LnccSweep(const LnccShape<T>& shape, const LnccTile& tile, T shift_a, T shift_b, bool need_a, bool need_b, Images& images)
      : shape_(shape), tile_(tile), shift_a_(shift_a), shift_b_(shift_b), need_a_(need_a), images_(images), adjoints_(need_a && need_b ? 5 : (need_a || need_b ? 3 : 0)) {
    for (int d = 0; d < 3; ++d) {
      n_[d] = shape.size[d];
      r_[d] = shape.window[d] / 2;
    }
    // Windows are wanted for the tile, and with gradients for the rows and planes around it that reach it. Those behind the image have adjoints 0.
    const int64_t reach_i = adjoints_ ? r_[0] : 0, reach_j = adjoints_ ? r_[1] : 0;
    ic0_ = std::max<int64_t>(0, tile.i0 - reach_i), ic1_ = tile.i1 + reach_i;
    jc0_ = std::max<int64_t>(0, tile.j0 - reach_j), jc1_ = tile.j1 + reach_j;
    is0_ = std::max<int64_t>(0, ic0_ - r_[0]);
    js0_ = std::max<int64_t>(0, jc0_ - r_[1]), js1_ = std::min(n_[1], jc1_ + r_[1]);
    constexpr int64_t L = kLaneCount<T>;
    width_ = (n_[2] + 2 * r_[2] + 3 * L - 1) / L * L;
    columns_ = (n_[2] + L - 1) / L * L;
    planes_.assign(kLnccSums * (js1_ - js0_) * columns_, T(0));
    row_.assign(kLnccSums * width_, T(0));
    work_.assign(width_, T(0));
    boxes_.assign(kLnccSums * width_, T(0));
    ones_.assign(n_[2], T(1));
    ncc_.assign(columns_, T(0));
    inside_k_.resize(n_[2]);
    for (int64_t k = 0; k < n_[2]; ++k) inside_k_[k] = inside(2, k);
    if (adjoints_) {
      slots_ = std::min(shape.window[0], ic1_ - ic0_);
      adjoint_rows_ = std::min(n_[1], jc1_) - jc0_;
      fresh_.assign(adjoints_ * columns_, T(0));
      ring_.assign(slots_ * adjoints_ * adjoint_rows_ * columns_, T(0));
      adjoint_planes_.assign(adjoints_ * adjoint_rows_ * columns_, 0.0);
      adjoint_row_.assign(adjoints_ * columns_, 0.0);
      padded_.assign(width_, T(0));
    }
  }

  // Sum of weight * ncc over the tile.
  double run() {
    double total = 0;
    for (int64_t i = is0_; i < std::min(n_[0], ic0_ + r_[0]); ++i) {
      enter_plane(i);
      for (int64_t j = js0_; j < js1_; ++j) update_planes<true, false>(i, 0, j);
    }
    for (int64_t i = ic0_; i < ic1_; ++i) total += step(i);
    return total;
  }

 private:
  // Windows centred on plane i, and the gradient of the plane half a window behind.
  double step(int64_t i) {
    double total = 0;
    const bool windows = i < n_[0], gradient = adjoints_ && i - r_[0] >= tile_.i0;
    const int64_t entering = i + r_[0], leaving = i - r_[0] - 1;
    const bool enters = entering < n_[0], leaves = leaving >= is0_ && i > ic0_;
    if (enters) enter_plane(entering);
    std::fill(row_.begin(), row_.end(), T(0));
    std::fill(adjoint_row_.begin(), adjoint_row_.end(), 0.0);
    for (int64_t s = js0_; s < jc1_ + r_[1]; ++s) {
      const int64_t j = s - r_[1];
      if (windows) {
        if (s < js1_) {
          if (enters && leaves) update_planes<true, true>(entering, leaving, s);
          else if (enters) update_planes<true, false>(entering, leaving, s);
          else if (leaves) update_planes<false, true>(entering, leaving, s);
        }
        update_row(s);
      }
      if (j < jc0_) continue;
      if (windows && j < n_[1]) total += centre_row(i, j);
      else std::fill(fresh_.begin(), fresh_.end(), T(0));
      if (!adjoints_) continue;
      if (j < n_[1]) update_adjoint_planes(i, j);
      if (!gradient) continue;
      update_adjoint_row(j);
      if (j - r_[1] >= tile_.j0) gradient_row(i - r_[0], j - r_[1]);
    }
    return total;
  }

  T* plane_row(int q, int64_t j) { return planes_.data() + (q * (js1_ - js0_) + (j - js0_)) * columns_; }
  T* ring_row(int64_t i, int q, int64_t j) { return ring_.data() + (((i - ic0_) % slots_ * adjoints_ + q) * adjoint_rows_ + (j - jc0_)) * columns_; }
  double* adjoint_plane_row(int q, int64_t j) { return adjoint_planes_.data() + (q * adjoint_rows_ + (j - jc0_)) * columns_; }

  // All at once: images that make their rows work with memory of their own, which the sums would push out of the cache between rows.
  void enter_plane(int64_t i) {
    for (int64_t j = js0_; j < js1_; ++j) images_.enter(i, j);
  }

  template <bool enters, bool leaves>
  void update_planes(int64_t entering, int64_t leaving, int64_t j) {
    T *sa = plane_row(0, j), *sb = plane_row(1, j), *saa = plane_row(2, j), *sbb = plane_row(3, j), *sab = plane_row(4, j);
    const T *a = nullptr, *b = nullptr, *a_old = nullptr, *b_old = nullptr;
    if constexpr (enters) a = images_.a(entering, j), b = images_.b(entering, j);
    if constexpr (leaves) a_old = images_.a(leaving, j), b_old = images_.b(leaving, j);
    const T shift_a = shift_a_, shift_b = shift_b_;
    for (int64_t k = 0, n = n_[2]; k < n; ++k) {
      T da = 0, db = 0, daa = 0, dbb = 0, dab = 0;
      if constexpr (enters) {
        const T x = a[k] - shift_a, y = b[k] - shift_b;
        da += x, db += y, daa += x * x, dbb += y * y, dab += x * y;
      }
      if constexpr (leaves) {
        const T x = a_old[k] - shift_a, y = b_old[k] - shift_b;
        da -= x, db -= y, daa -= x * x, dbb -= y * y, dab -= x * y;
      }
      sa[k] += da, sb[k] += db, saa[k] += daa, sbb[k] += dbb, sab[k] += dab;
    }
  }

  // row += the row of planes that enters the window along j, minus the one that leaves.
  void update_row(int64_t s) {
    const bool enters = s < js1_, leaves = s - shape_.window[1] >= js0_;
    for (int q = 0; q < kLnccSums; ++q) {
      T* target = row_.data() + q * width_ + r_[2];
      add_difference(target, enters ? plane_row(q, s) : nullptr, leaves ? plane_row(q, s - shape_.window[1]) : nullptr);
    }
  }

  void update_adjoint_row(int64_t s) {
    const bool enters = s < n_[1], leaves = s - shape_.window[1] >= jc0_;
    for (int q = 0; q < adjoints_; ++q) {
      double* target = adjoint_row_.data() + q * columns_;
      add_difference(target, enters ? adjoint_plane_row(q, s) : nullptr, leaves ? adjoint_plane_row(q, s - shape_.window[1]) : nullptr);
    }
  }

  template <class S>
  void add_difference(S* target, const S* plus, const S* minus) {
    const int64_t n = n_[2];
    if (plus && minus) for (int64_t k = 0; k < n; ++k) target[k] += plus[k] - minus[k];
    else if (plus) for (int64_t k = 0; k < n; ++k) target[k] += plus[k];
    else if (minus) for (int64_t k = 0; k < n; ++k) target[k] -= minus[k];
  }

  // How many voxels of a window centred on x lie in the image, along one axis.
  T inside(int axis, int64_t x) const {
    return static_cast<T>(std::min(x + r_[axis], n_[axis] - 1) - std::max<int64_t>(x - r_[axis], 0) + 1);
  }

  // The windows of one row: values, and with gradients their adjoints into `fresh_`. Returns the row's part of the sum.
  double centre_row(int64_t i, int64_t j) {
    const int64_t n = n_[2];
    for (int q = 0; q < kLnccSums; ++q) box_row(row_.data() + q * width_, work_.data(), boxes_.data() + q * width_, n, shape_.window[2]);
    const T *sa = boxes_.data(), *sb = sa + width_, *saa = sb + width_, *sbb = saa + width_, *sab = sbb + width_;
    const T full = static_cast<T>(shape_.window[0] * shape_.window[1] * shape_.window[2]), inverse_n = 1 / full, eps = shape_.eps;
    const T inside_ij = inside(0, i) * inside(1, j), *inside_k = inside_k_.data();
    const T oa = -shift_a_, ob = -shift_b_, oaa = oa * oa, obb = ob * ob, oab = oa * ob;
    const T *given = images_.weight(i, j), *weight = given ? given : ones_.data();
    T* ncc = ncc_.data();
    const auto terms_at = [&](int64_t k) __attribute__((always_inline)) {
      const T outside = full - inside_ij * inside_k[k];
      return lncc_terms(sa[k] + outside * oa, sb[k] + outside * ob, saa[k] + outside * oaa, sbb[k] + outside * obb, sab[k] + outside * oab,
                        inverse_n, eps, weight[k]);
    };
    T *cross = fresh_.data(), *square = cross + columns_, *linear = square + columns_;
    if (adjoints_ == 0) {
      for (int64_t k = 0; k < n; ++k) ncc[k] = terms_at(k).ncc;
    } else if (adjoints_ == 5) {
      T *square_b = linear + columns_, *linear_b = square_b + columns_;
      for (int64_t k = 0; k < n; ++k) {
        const LnccTerms<T> t = terms_at(k);
        ncc[k] = t.ncc, cross[k] = t.cross, square[k] = t.square_a, linear[k] = t.linear_a, square_b[k] = t.square_b, linear_b[k] = t.linear_b;
      }
    } else if (need_a_) {
      for (int64_t k = 0; k < n; ++k) {
        const LnccTerms<T> t = terms_at(k);
        ncc[k] = t.ncc, cross[k] = t.cross, square[k] = t.square_a, linear[k] = t.linear_a;
      }
    } else {
      for (int64_t k = 0; k < n; ++k) {
        const LnccTerms<T> t = terms_at(k);
        ncc[k] = t.ncc, cross[k] = t.cross, square[k] = t.square_b, linear[k] = t.linear_b;
      }
    }
    if (i < tile_.i0 || i >= tile_.i1 || j < tile_.j0 || j >= tile_.j1) return 0;
    images_.value(i, j, ncc);
    return weighted_sum(weight, ncc);
  }

  // At most one row is added up in T.
  double weighted_sum(const T* weight, const T* ncc) const {
    constexpr int64_t L = kLaneCount<T>;
    Lanes<T> lanes = {};
    int64_t k = 0;
    for (; k + L <= n_[2]; k += L) lanes += load_lanes(weight + k) * load_lanes(ncc + k);
    double sum = sum_lanes<T>(lanes);
    for (; k < n_[2]; ++k) sum += weight[k] * ncc[k];
    return sum;
  }

  // The fresh adjoints take the place in the ring of those that leave the window along i.
  void update_adjoint_planes(int64_t i, int64_t j) {
    for (int q = 0; q < adjoints_; ++q) {
      const T* fresh = fresh_.data() + q * columns_;
      T* ring = ring_row(i, q, j);
      double* sum = adjoint_plane_row(q, j);
      for (int64_t k = 0, n = n_[2]; k < n; ++k) {
        sum[k] += static_cast<double>(fresh[k]) - static_cast<double>(ring[k]);
        ring[k] = fresh[k];
      }
    }
  }

  void gradient_row(int64_t i, int64_t j) {
    for (int q = 0; q < adjoints_; ++q) {
      const double* source = adjoint_row_.data() + q * columns_;
      T* target = padded_.data() + r_[2];
      for (int64_t k = 0, n = n_[2]; k < n; ++k) target[k] = static_cast<T>(source[k]);
      box_row(padded_.data(), work_.data(), boxes_.data() + q * width_, n_[2], shape_.window[2]);
    }
    const T* boxes[5];
    for (int q = 0; q < 5; ++q) boxes[q] = boxes_.data() + q * width_;
    images_.gradient(i, j, boxes);
  }

  const LnccShape<T>& shape_;
  const LnccTile tile_;
  const T shift_a_, shift_b_;
  const bool need_a_;
  Images& images_;
  const int adjoints_;  // kinds of them: cross, and square and linear of each image that needs a gradient
  int64_t n_[3], r_[3];
  int64_t ic0_, ic1_, jc0_, jc1_, is0_, js0_, js1_;  // c: where windows are centred; s: where images are read
  int64_t width_, columns_, slots_ = 0, adjoint_rows_ = 0;
  std::vector<T> planes_, row_, work_, boxes_, ones_, ncc_, inside_k_, fresh_, ring_, padded_;
  std::vector<double> adjoint_planes_, adjoint_row_;
};

}  // namespace regkit
