// Backward of one displacement after another, both gradients in one visit of each sample. With p = x + v(x), g = the gradient of out(x):
//   grad v(x) = g + (grad u(p))^T g        read from the cells around p
//   grad u   += weight of each cell * g    added to the cells around p
// For u o u (square) the two are one field. Bytes a voxel (3-D, float32): 12 (u) + 16 (g) read, 16 of sums written: 44, and the sums once more where
// they are read to be added to. Every sample's location is computed once.
//
// No two threads add to one voxel: a job owns a slab of the sums and visits the rows that reach it, those of the slabs beside it too. A voxel gets its
// contributions in the order of the samples, whatever the threads.
#include <limits>
#include <vector>

#include "cpu/field_block.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 32, kSlabs = 16;

// The planes (along the first axis in use) that the samples of each row reach: [low, high].
struct Reach {
  int32_t low, high;
};

template <int D, class T, class From>
Reach row_reach(const From& v, int64_t b, int64_t row, int64_t plane, const Extent<D>& output, int64_t planes) {
  const int64_t nk = output.n[D - 1];
  const T* shift = v.at(b, row * nk);
  int32_t low = std::numeric_limits<int32_t>::max(), high = 0;
  for (int64_t k = 0; k < nk; ++k) {
    const int32_t below = field_cell(shift[k * From::kStep] + static_cast<T>(plane), static_cast<int32_t>(planes)).low;
    low = std::min(low, below);
    high = std::max(high, below);
  }
  return {low, planes > 1 ? high + 1 : high};
}

// store(l, cell) for each voxel of a block, cell = g + sum over c of g_c * (derivative of u_c by each axis).
template <bool whole, int D, class Index, class T, class Store>
inline void grad_at_samples(const Samples<D, Index, T>& s, const T* field, const Runs<D>& runs, int lanes, int count, const T* g, Store&& store) {
  const T *fk = s.f[D - 1], *fj = s.f[D - 2], *fi = s.f[0];
  const T* run[Runs<D>::kCount];
  for (int r = 0; r < Runs<D>::kCount; ++r) run[r] = field + runs.offset[r];
  for (int l = 0; l < kLanes; l += 5) __builtin_prefetch(run[Runs<D>::kCount - 1] + runs.line + static_cast<int64_t>(s.offset[l]) * D);
  for (int l = 0; l < lanes; ++l) {
    const int64_t cell = static_cast<int64_t>(s.offset[l]) * D;
    Pair<D, T> at[Runs<D>::kCount], by[D];  // by: derivative by axes i and j; for k, what the derivative is the difference of
    for (int r = 0; r < Runs<D>::kCount; ++r) load_pair<whole, D>(at[r], run[r] + cell, count);
    if constexpr (D == 3) {
      const Pair<D, T> step_low = at[1] - at[0], step_high = at[3] - at[2];
      const Pair<D, T> low = at[0] + fj[l] * step_low, high = at[2] + fj[l] * step_high;
      by[0] = high - low;
      by[1] = step_low + fi[l] * (step_high - step_low);
      by[2] = low + fi[l] * by[0];
    } else {
      by[0] = at[1] - at[0];
      by[1] = at[0] + fj[l] * by[0];
    }
    Cell<D, T> gradient, products[D], sum;
    std::memcpy(&gradient, g + l * kWidth<D>, sizeof gradient);
    for (int d = 0; d < D; ++d) {
      Cell<D, T> low, high;
      split<D, T>(by[d], low, high);
      const Cell<D, T> slope = d == D - 1 ? high - low : low + fk[l] * (high - low);
      products[d] = s.moves[d][l] * slope * gradient;
    }
    sum_cells<D, T>(products, sum);
    sum += gradient;
    store(l, sum);
  }
}

// Adds weight * g to the cells around each sample of a block; only to those of the planes [first, last) where `bounded`.
template <bool bounded, int D, class Index, class T>
inline void scatter(const Samples<D, Index, T>& s, T* sums, const Extent<D>& e, const Runs<D>& runs, int lanes, const T* g, int64_t first, int64_t last) {
  constexpr int W = kWidth<D>, kCount = Runs<D>::kCount;
  alignas(64) T weight[kCount][kLanes], low[kCount][kLanes], high[kCount][kLanes];
  run_weights(s, weight);
  for (int r = 0; r < kCount; ++r)
    for (int l = 0; l < kLanes; ++l) {
      low[r][l] = weight[r][l] * (1 - s.f[D - 1][l]);
      high[r][l] = weight[r][l] * s.f[D - 1][l];
    }
  const int64_t second = e.n[D - 1] > 1 ? W : 0, plane_voxels = e.voxels() / e.n[0];
  for (int l = 0; l < lanes; ++l) {
    T* cell = sums + static_cast<int64_t>(s.offset[l]) * W;
    Cell<D, T> gradient;
    std::memcpy(&gradient, g + l * W, sizeof gradient);
    for (int r = 0; r < kCount; ++r) {
      if constexpr (bounded) {
        const int64_t plane = s.offset[l] / plane_voxels + (e.n[0] > 1 ? r >> (D - 2) : 0);
        if (plane < first || plane >= last) continue;
      }
      T* target = cell + runs.offset[r];
      Cell<D, T> sum;
      std::memcpy(&sum, target, sizeof sum);
      sum += low[r][l] * gradient;
      std::memcpy(target, &sum, sizeof sum);
      std::memcpy(&sum, target + second, sizeof sum);
      sum += high[r][l] * gradient;
      std::memcpy(target + second, &sum, sizeof sum);
    }
  }
}

template <int D, class Index, class T, class Grad, class From>
struct Backward {
  const Grad grad;
  const T* u;
  const From v;
  const bool square;
  T *sums, *grad_v;
  const FieldSizes& s;
  const Extent<D> field{s.field}, output{s.output};
  const Runs<D> runs{field}, sum_runs{field, kWidth<D>};

  // Rows [begin, end) of the output, `own` of them with the gradient by v; adds to the planes [first, last) of sums, if there are any.
  void rows(int64_t b, int64_t row, bool own, int64_t first, int64_t last) const {
    constexpr int W = kWidth<D>;
    const int64_t nk = output.n[D - 1], field_voxels = field.voxels(), plane_voxels = field_voxels / field.n[0];
    Samples<D, Index, T> samples;
    alignas(64) T c[D][kLanes], transposed[kLanes * W] = {}, result[kLanes * W];
    int64_t at[D];
    output.row(row, at);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t voxel = row * nk + k0;
      coordinates(v, b, voxel, at, k0, lanes, c);
      locate(samples, c, field, runs, (s.batch - b) * field_voxels);
      const T* g = gradient(b, voxel, lanes, transposed);
      if (own) {
        const T* volume = u + b * field_voxels * D;
        const auto store = [&](auto&& add) {
          if (samples.inside_array) grad_at_samples<true>(samples, volume, runs, lanes, 2 * D, g, add);
          else grad_at_samples<false>(samples, volume, runs, lanes, field.n[D - 1] > 1 ? 2 * D : D, g, add);
        };
        if (square) {
          T* target = sums + (b * field_voxels + voxel) * W;
          store([&](int l, const Cell<D, T>& add) {
            Cell<D, T> sum;
            std::memcpy(&sum, target + l * W, sizeof sum);
            sum += add;
            std::memcpy(target + l * W, &sum, sizeof sum);
          });
        } else {
          store([&](int l, const Cell<D, T>& add) { std::memcpy(result + l * W, &add, sizeof add); });
          for (int d = 0; d < D; ++d) {
            T* target = grad_v + (b * D + d) * output.voxels() + voxel;
            for (int l = 0; l < lanes; ++l) target[l] = result[l * W + d];
          }
        }
      }
      if (sums) {
        T* volume = sums + b * field_voxels * W;
        const bool within = samples.lowest >= first * plane_voxels && samples.highest + (field.n[0] > 1 ? plane_voxels : 0) < last * plane_voxels;
        if (within) scatter<false>(samples, volume, field, sum_runs, lanes, g, first, last);
        else scatter<true>(samples, volume, field, sum_runs, lanes, g, first, last);
      }
    }
  }

  // The gradient at a block of the output, kWidth numbers a voxel.
  const T* gradient(int64_t b, int64_t voxel, int lanes, T* transposed) const {
    const T* source = grad.at(b, voxel);
    if constexpr (Grad::kStep == kWidth<D>) return source;
    for (int d = 0; d < D; ++d)
      for (int l = 0; l < lanes; ++l) transposed[l * kWidth<D> + d] = source[d * grad.component + l * Grad::kStep];
    return transposed;
  }

  void run(int threads) const {
    const int64_t rows_each = output.rows(), planes = field.n[0], out_planes = output.n[0], rows_a_plane = rows_each / std::max<int64_t>(out_planes, 1);
    const Chunks chunks{s.batch * rows_each, kRowsPerJob};
    if (!sums) {
      parallel_for(chunks.count(), threads, [&](int64_t job) {
        for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) rows(r / rows_each, r % rows_each, true, 0, 0);
      });
      return;
    }
    std::vector<Reach> reach(s.batch * rows_each);
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r)
        reach[r] = row_reach<D, T>(v, r / rows_each, r % rows_each, r % rows_each / rows_a_plane, output, planes);
    });
    // Slab n owns planes of the sums and, for the gradient by v, the same share of the output's planes.
    const int64_t count = std::min(kSlabs, planes);
    parallel_for(s.batch * count, threads, [&](int64_t job) {
      const int64_t b = job / count, slab = job % count;
      const int64_t first = planes * slab / count, last = planes * (slab + 1) / count;
      const int64_t own_first = out_planes * slab / count * rows_a_plane, own_last = out_planes * (slab + 1) / count * rows_a_plane;
      const int64_t plane_numbers = field.voxels() / planes * kWidth<D>;
      std::fill_n(sums + b * field.voxels() * kWidth<D> + first * plane_numbers, (last - first) * plane_numbers, T(0));
      for (int64_t r = 0; r < rows_each; ++r) {
        const Reach& at = reach[b * rows_each + r];
        const bool own = (square || grad_v) && r >= own_first && r < own_last;
        if (own || (at.low < last && at.high >= first)) rows(b, r, own, first, last);
      }
    });
  }
};

}  // namespace

template <class T>
void field_compose_backward(const T* grad, bool grad_planar, const T* u, const T* v, bool square, T* sums, T* grad_v, const FieldSizes& s, int threads) {
  const int64_t voxels = s.output_voxels();
  if (sums) advise_large_pages(sums, s.batch * field_sum_width(s.dims) * s.field_voxels());
  if (grad_v) advise_large_pages(grad_v, s.batch * s.dims * voxels);
  specialise_field(s, [&](auto D, auto index) {
    const auto run = [&](auto grad_of, auto from) {
      Backward<D, decltype(index), T, decltype(grad_of), decltype(from)>{grad_of, u, from, square, sums, grad_v, s}.run(threads);
    };
    const auto with_grad = [&](auto from) {
      if (grad_planar) run(planar_layout<D>(grad, voxels), from);
      else run(packed_layout<kWidth<D>>(grad, voxels), from);
    };
    if (square) with_grad(packed_layout<D>(v, voxels));
    else with_grad(planar_layout<D>(v, voxels));
  });
}

template void field_compose_backward<float>(const float*, bool, const float*, const float*, bool, float*, float*, const FieldSizes&, int);
template void field_compose_backward<double>(const double*, bool, const double*, const double*, bool, double*, double*, const FieldSizes&, int);

}  // namespace regkit
