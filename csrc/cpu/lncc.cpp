// Local NCC on the CPU. Reads two volumes and writes at most one gradient volume per image: 8 to 16 bytes a voxel of memory traffic;
// scratch is a few planes per thread. The cost does not grow with the window.
//
// A job is one tile of rows (j) and one chunk of planes (i) of one volume, all of k. Marching along i it keeps, for the tile,
//   planes   the five products summed over the window along i: plus the plane that enters, minus the plane that leaves;
//   rows     those summed along j, in the same way, row by row;
//   boxes    those summed along k by doubling (1, 2, 4, 8 ... neighbours), which is exact and vectorises;
// so that lanes always run along k. With gradients, the adjoints of each plane go through the same three sums a second time, half a window
// behind.
// Adjoints span many orders of magnitude (1 / variance), hence running sums of them are kept in double: what left the window leaves no
// trace.
// Chunks restart the running sums, which bounds the drift. Images are shifted by their mean: without it the variance of a bright image is
// all rounding.
// The zeros outside the image are -shift then. They stay out of the running sums, where they would leave rounding errors behind them, and
// are added to each window from the number of its voxels that lie outside.
#include "lncc.h"

#include <algorithm>
#include <vector>

#include "core/lncc.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kTileRows = 48, kChunkPlanes = 64;
constexpr int kSums = 5;  // a, b, aa, bb, ab

// out[k] = in[k] + ... + in[k + window - 1] for k < n; `in` holds n + window - 1 values and is overwritten.
template <class T>
inline void box_row(T* in, T* out, int64_t n, int64_t window) {
  int64_t taken = 0, span = 1;
  for (;;) {
    if (window & span) {
      const T* source = in + taken;
      if (taken) for (int64_t k = 0; k < n; ++k) out[k] += source[k];
      else for (int64_t k = 0; k < n; ++k) out[k] = source[k];
      taken += span;
    }
    if (taken == window) return;
    const int64_t length = n + window - 1 - (2 * span - 1);
    for (int64_t k = 0; k < length; ++k) in[k] += in[k + span];
    span *= 2;
  }
}

template <class T>
class Sweep {
 public:
  Sweep(const LnccCall<T>& call, int64_t volume, T shift_a, T shift_b, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
      : call_(call), shift_a_(shift_a), shift_b_(shift_b), i0_(i0), i1_(i1), j0_(j0), j1_(j1) {
    for (int d = 0; d < 3; ++d) {
      n_[d] = call.size[d];
      r_[d] = call.window[d] / 2;
    }
    const int64_t voxels = n_[0] * n_[1] * n_[2];
    offset_ = volume * voxels;
    a_ = call.a + offset_;
    b_ = call.b + offset_;
    weight_ = call.weight ? call.weight + (volume / call.volumes_per_weight) * voxels : nullptr;
    adjoints_ = call.grad_a && call.grad_b ? 5 : (call.grad_a || call.grad_b ? 3 : 0);
    // Rows and planes whose windows are wanted: those of the tile, and with gradients those whose windows reach the tile.
    const int64_t reach = adjoints_ ? 1 : 0;
    jc0_ = std::max<int64_t>(0, j0 - reach * r_[1]);
    jc1_ = std::min(n_[1], j1 + reach * r_[1]);
    ic0_ = std::max<int64_t>(0, i0 - reach * r_[0]);
    ic1_ = std::min(n_[0], i1 + reach * r_[0]);
    width_ = n_[2] + 2 * r_[2];
    rows_ = jc1_ - jc0_ + 2 * r_[1];
    planes_.assign(kSums * rows_ * width_, T(0));
    row_.resize(kSums * width_);
    work_.resize(width_);
    box_.resize(kSums * n_[2]);
    inside_k_.resize(n_[2]);
    for (int64_t k = 0; k < n_[2]; ++k) inside_k_[k] = inside(2, k);
    if (adjoints_) {
      ring_.assign((call.window[0] + 1) * adjoints_ * (jc1_ - jc0_) * n_[2], T(0));
      adjoint_planes_.assign(adjoints_ * (jc1_ - jc0_) * n_[2], 0.0);
      adjoint_row_.resize(adjoints_ * n_[2]);
    }
  }

  double run() {
    double total = 0;
    for (int64_t i = ic0_ - r_[0]; i < ic0_ + r_[0]; ++i) enter(i);
    int64_t next_gradient = i0_;
    for (int64_t i = ic0_; i < ic1_; ++i) {
      enter(i + r_[0]);
      if (i > ic0_) leave(i - r_[0] - 1);
      total += centre_plane(i);
      if (!adjoints_) continue;
      add_adjoints(i);
      // The gradient of plane g is complete when the adjoints up to g + r (or the last plane) are in.
      while (next_gradient < i1_ && std::min(next_gradient + r_[0], n_[0] - 1) <= i) {
        drop_adjoints(next_gradient - r_[0] - 1);
        gradient_plane(next_gradient++);
      }
    }
    return total;
  }

 private:
  T* plane_row(int q, int64_t row) { return planes_.data() + (q * rows_ + row) * width_; }
  // One plane more than the window: the plane that leaves must still be there when the one that enters is written.
  T* ring_row(int64_t i, int q, int64_t j) { return ring_.data() + (((i % (call_.window[0] + 1)) * adjoints_ + q) * (jc1_ - jc0_) + (j - jc0_)) * n_[2]; }
  double* adjoint_row_of_plane(int q, int64_t j) { return adjoint_planes_.data() + (q * (jc1_ - jc0_) + (j - jc0_)) * n_[2]; }

  void enter(int64_t i) { update(i, T(1)); }
  void leave(int64_t i) { update(i, T(-1)); }

  // planes += sign * products of image plane i.
  void update(int64_t i, T sign) {
    if (i < 0 || i >= n_[0]) return;
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t j = jc0_ - r_[1] + row;
      if (j < 0 || j >= n_[1]) continue;
      const auto sums = [&](int q) { return plane_row(q, row) + r_[2]; };
      T *sa = sums(0), *sb = sums(1), *saa = sums(2), *sbb = sums(3), *sab = sums(4);
      const T *a = a_ + (i * n_[1] + j) * n_[2], *b = b_ + (i * n_[1] + j) * n_[2];
      for (int64_t k = 0; k < n_[2]; ++k) {
        const T x = a[k] - shift_a_, y = b[k] - shift_b_, xs = sign * x, ys = sign * y;
        sa[k] += xs;
        sb[k] += ys;
        saa[k] += xs * x;
        sbb[k] += ys * y;
        sab[k] += xs * y;
      }
    }
  }

  // How many voxels of a window centred on x lie in the image, along one axis.
  T inside(int axis, int64_t x) const {
    return static_cast<T>(std::min(x + r_[axis], n_[axis] - 1) - std::max<int64_t>(x - r_[axis], 0) + 1);
  }

  // Windows centred on plane i: values, and adjoints into the ring.
  double centre_plane(int64_t i) {
    const T inverse_n = T(1) / static_cast<T>(call_.window[0] * call_.window[1] * call_.window[2]);
    const bool in_tile_i = i >= i0_ && i < i1_;
    double total = 0;
    std::fill(row_.begin(), row_.end(), T(0));
    for (int64_t row = 0; row < 2 * r_[1]; ++row) accumulate(row, T(1));
    for (int64_t j = jc0_; j < jc1_; ++j) {
      accumulate(j - jc0_ + 2 * r_[1], T(1));
      if (j > jc0_) accumulate(j - jc0_ - 1, T(-1));
      for (int q = 0; q < kSums; ++q) {
        std::copy_n(row_.data() + q * width_, width_, work_.data());
        box_row(work_.data(), box_.data() + q * n_[2], n_[2], call_.window[2]);
      }
      total += centre_row(i, j, inverse_n, in_tile_i && j >= j0_ && j < j1_);
    }
    return total;
  }

  void accumulate(int64_t row, T sign) {
    for (int q = 0; q < kSums; ++q) {
      const T* source = plane_row(q, row);
      T* target = row_.data() + q * width_;
      for (int64_t k = 0; k < width_; ++k) target[k] += sign * source[k];
    }
  }

  double centre_row(int64_t i, int64_t j, T inverse_n, bool in_tile) {
    const int64_t n = n_[2], voxel = (i * n_[1] + j) * n;
    const T *sa = box_.data(), *sb = sa + n, *saa = sb + n, *sbb = saa + n, *sab = sbb + n;
    const T eps = call_.eps;
    T* map = work_.data();  // the row of values; adjoints go to the ring
    const T inside_ij = inside(0, i) * inside(1, j), *inside_k = inside_k_.data();
    const T full = static_cast<T>(call_.window[0] * call_.window[1] * call_.window[2]);
    const T oa = -shift_a_, ob = -shift_b_, oaa = oa * oa, obb = ob * ob, oab = oa * ob;
    auto terms_at = [&](int64_t k) {
      const T outside = full - inside_ij * inside_k[k];
      return lncc_terms(sa[k] + outside * oa, sb[k] + outside * ob, saa[k] + outside * oaa, sbb[k] + outside * obb, sab[k] + outside * oab,
                        inverse_n, eps, weight_ ? weight_[voxel + k] : T(1));
    };
    if (adjoints_ == 0) {
      for (int64_t k = 0; k < n; ++k) map[k] = terms_at(k).ncc;
    } else {
      T *cross = ring_row(i, 0, j), *square = ring_row(i, 1, j), *linear = ring_row(i, 2, j);
      if (adjoints_ == 5) {
        T *square_b = ring_row(i, 3, j), *linear_b = ring_row(i, 4, j);
        for (int64_t k = 0; k < n; ++k) {
          const LnccTerms<T> t = terms_at(k);
          map[k] = t.ncc, cross[k] = t.cross, square[k] = t.square_a, linear[k] = t.linear_a, square_b[k] = t.square_b, linear_b[k] = t.linear_b;
        }
      } else {
        const bool for_a = call_.grad_a != nullptr;
        for (int64_t k = 0; k < n; ++k) {
          const LnccTerms<T> t = terms_at(k);
          map[k] = t.ncc, cross[k] = t.cross, square[k] = for_a ? t.square_a : t.square_b, linear[k] = for_a ? t.linear_a : t.linear_b;
        }
      }
    }
    if (!in_tile) return 0;
    if (call_.map) std::copy_n(map, n, call_.map + offset_ + voxel);
    double total = 0;
    if (call_.total) {
      T partial = 0;  // at most one row in T, rows in double
      if (weight_) for (int64_t k = 0; k < n; ++k) partial += weight_[voxel + k] * map[k];
      else for (int64_t k = 0; k < n; ++k) partial += map[k];
      total = partial;
    }
    return total;
  }

  void add_adjoints(int64_t i) {
    for (int q = 0; q < adjoints_; ++q) {
      const T* source = ring_row(i, q, jc0_);
      double* target = adjoint_row_of_plane(q, jc0_);
      for (int64_t k = 0; k < (jc1_ - jc0_) * n_[2]; ++k) target[k] += source[k];
    }
  }

  void drop_adjoints(int64_t i) {
    if (i < ic0_) return;
    for (int q = 0; q < adjoints_; ++q) {
      const T* source = ring_row(i, q, jc0_);
      double* target = adjoint_row_of_plane(q, jc0_);
      for (int64_t k = 0; k < (jc1_ - jc0_) * n_[2]; ++k) target[k] -= source[k];
    }
  }

  void gradient_plane(int64_t i) {
    std::fill(adjoint_row_.begin(), adjoint_row_.end(), 0.0);
    for (int64_t j = std::max(jc0_, j0_ - r_[1]); j < std::min(jc1_, j0_ + r_[1]); ++j) accumulate_adjoints(j, 1.0);
    for (int64_t j = j0_; j < j1_; ++j) {
      if (j + r_[1] < jc1_) accumulate_adjoints(j + r_[1], 1.0);
      if (j > j0_ && j - r_[1] - 1 >= jc0_) accumulate_adjoints(j - r_[1] - 1, -1.0);
      for (int q = 0; q < adjoints_; ++q) {
        std::fill_n(work_.data(), r_[2], T(0));
        std::fill_n(work_.data() + r_[2] + n_[2], r_[2], T(0));
        const double* source = adjoint_row_.data() + q * n_[2];
        for (int64_t k = 0; k < n_[2]; ++k) work_[r_[2] + k] = static_cast<T>(source[k]);
        box_row(work_.data(), box_.data() + q * n_[2], n_[2], call_.window[2]);
      }
      const T* boxes = box_.data();
      if (call_.grad_a) gradient_row(call_.grad_a, a_, b_, shift_a_, shift_b_, i, j, boxes, boxes + n_[2], boxes + 2 * n_[2]);
      if (call_.grad_b) {
        const int q = adjoints_ == 5 ? 3 : 1;
        gradient_row(call_.grad_b, b_, a_, shift_b_, shift_a_, i, j, boxes, boxes + q * n_[2], boxes + (q + 1) * n_[2]);
      }
    }
  }

  void accumulate_adjoints(int64_t j, double sign) {
    for (int q = 0; q < adjoints_; ++q) {
      const double* source = adjoint_row_of_plane(q, j);
      double* target = adjoint_row_.data() + q * n_[2];
      for (int64_t k = 0; k < n_[2]; ++k) target[k] += sign * source[k];
    }
  }

  void gradient_row(T* grad, const T* own, const T* other, T own_shift, T other_shift, int64_t i, int64_t j, const T* cross, const T* square, const T* linear) {
    const int64_t voxel = (i * n_[1] + j) * n_[2];
    const T *x = own + voxel, *y = other + voxel;
    T* g = grad + offset_ + voxel;
    for (int64_t k = 0; k < n_[2]; ++k) g[k] = call_.scale * (linear[k] + 2 * (x[k] - own_shift) * square[k] + (y[k] - other_shift) * cross[k]);
  }

  const LnccCall<T>& call_;
  const T *a_, *b_, *weight_;
  T shift_a_, shift_b_;
  int64_t i0_, i1_, j0_, j1_, n_[3], r_[3], offset_, ic0_, ic1_, jc0_, jc1_, width_, rows_;
  int adjoints_;
  std::vector<T> planes_, row_, work_, box_, inside_k_, ring_;
  std::vector<double> adjoint_planes_, adjoint_row_;
};

// The mean of a volume, added up in an order that does not depend on the threads.
template <class T>
std::vector<T> volume_means(const T* image, int64_t volumes, int64_t voxels, int threads) {
  const Chunks chunks{voxels, 1 << 16};
  std::vector<double> partial(volumes * chunks.count());
  parallel_for(volumes * chunks.count(), threads, [&](int64_t job) {
    const T* x = image + (job / chunks.count()) * voxels;
    const int64_t begin = chunks.begin(job % chunks.count()), end = chunks.end(job % chunks.count());
    double lanes[8] = {};
    int64_t k = begin;
    for (; k + 8 <= end; k += 8)
      for (int l = 0; l < 8; ++l) lanes[l] += x[k + l];
    for (; k < end; ++k) lanes[0] += x[k];
    for (double lane : lanes) partial[job] += lane;
  });
  std::vector<T> means(volumes);
  for (int64_t v = 0; v < volumes; ++v) {
    double sum = 0;
    for (int64_t c = 0; c < chunks.count(); ++c) sum += partial[v * chunks.count() + c];
    means[v] = static_cast<T>(sum / static_cast<double>(voxels));
  }
  return means;
}

}  // namespace

template <class T>
void lncc(const LnccCall<T>& call, int threads) {
  const int64_t voxels = call.size[0] * call.size[1] * call.size[2];
  if (call.volumes * voxels == 0) {
    if (call.total) *call.total = 0;
    return;
  }
  for (T* output : {call.map, call.grad_a, call.grad_b}) advise_large_pages(output, call.volumes * voxels);
  const std::vector<T> shift_a = volume_means(call.a, call.volumes, voxels, threads), shift_b = volume_means(call.b, call.volumes, voxels, threads);
  const auto split = [](int64_t n, int64_t target) { return Chunks{n, (n + (n + target - 1) / target - 1) / ((n + target - 1) / target)}; };
  const Chunks planes = split(call.size[0], kChunkPlanes), rows = split(call.size[1], kTileRows);
  const int64_t tiles = planes.count() * rows.count();
  std::vector<double> totals(call.volumes * tiles);
  parallel_for(call.volumes * tiles, threads, [&](int64_t job) {
    const int64_t volume = job / tiles, p = job % tiles / rows.count(), r = job % tiles % rows.count();
    totals[job] = Sweep<T>(call, volume, shift_a[volume], shift_b[volume], planes.begin(p), planes.end(p), rows.begin(r), rows.end(r)).run();
  });
  if (call.total) {
    *call.total = 0;
    for (double t : totals) *call.total += t;
  }
}

template void lncc<float>(const LnccCall<float>&, int);
template void lncc<double>(const LnccCall<double>&, int);

}  // namespace regkit
