// Backward of one displacement after another, both gradients in one visit of each sample. With p = x + v(x), g = the gradient of out(x):
//   grad v(x) = g + (grad u(p))^T g        read from the cells around p
//   grad u   += weight of each cell * g    added to the cells around p
// For u o u (square) the two are one field. Bytes a voxel (3-D, float32): 12 (u) + 12 (g) read, 12 written: 36, and what is written once more where
// it is read to be added to. Every sample's location is computed once.
//
// No two threads add to one voxel: a job owns a slab of grad_u and visits the rows that reach it, those of the slabs beside it too. A voxel gets its
// contributions in the order of the samples. Slabs depend on the size alone: at their ends sums may be rounded otherwise than inside.
#include <limits>
#include <vector>

#include "cpu/field_block.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 32, kPlanesPerSlab = 16, kMostSlabs = 16;

// The planes (along the first axis in use) that the samples of each row reach: [low, high].
struct Reach {
  int32_t low, high;
};

template <int D, class T, class From>
Reach row_reach(const From& v, int64_t b, int64_t row, int64_t plane, const Extent<D>& output, int64_t planes) {
  const int64_t nk = output.n[D - 1];
  const T* shift = v.at(b, row * nk);
  constexpr int kStep = std::is_same_v<From, PackedField<D, const T>> ? D : 1;
  int32_t low = std::numeric_limits<int32_t>::max(), high = 0;
  for (int64_t k = 0; k < nk; ++k) {
    const int32_t below = field_cell(shift[k * kStep] + static_cast<T>(plane), static_cast<int32_t>(planes)).low;
    low = std::min(low, below);
    high = std::max(high, below);
  }
  return {low, planes > 1 ? high + 1 : high};
}

// result = g + sum over c of g_c * (derivative of u_c by each axis), D numbers for each voxel of a block; may write one number too far.
template <int D, class Index, class T>
inline void grad_at_samples(const Samples<D, Index, T>& s, const T* field, const Extent<D>& e, const Runs<D>& runs, int lanes, const T* g, T* result) {
  const bool whole = s.inside_array;
  const int numbers = e.n[D - 1] > 1 ? 2 * D : D;
  const T *fk = s.f[D - 1], *fj = s.f[D - 2], *fi = s.f[0];
  const T* run[Runs<D>::kCount];
  for (int r = 0; r < Runs<D>::kCount; ++r) run[r] = field + runs.offset[r];
  for (int l = 0; l < kLanes; l += 5) __builtin_prefetch(run[Runs<D>::kCount - 1] + runs.line + static_cast<int64_t>(s.offset[l]) * D);
  for (int l = 0; l < lanes; ++l) {
    const int64_t cell = static_cast<int64_t>(s.offset[l]) * D;
    Pair<D, T> at[Runs<D>::kCount], by[D];  // by: derivative by axes i and j; for k, what the derivative is the difference of
    for (int r = 0; r < Runs<D>::kCount; ++r) load_pair<D>(at[r], run[r] + cell, whole, numbers);
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
    std::memcpy(&gradient, g + l * D, sizeof gradient);
    for (int d = 0; d < D; ++d) {
      Cell<D, T> low, high;
      split<D, T>(by[d], low, high);
      const Cell<D, T> slope = d == D - 1 ? high - low : low + fk[l] * (high - low);
      products[d] = s.moves[d][l] * slope * gradient;
    }
    sum_cells<D, T>(products, sum);
    sum += gradient;
    std::memcpy(result + l * D, &sum, sizeof sum);
  }
}

// Adds weight * g to the cells around each sample of a block. A pair of cells is one vector, which reaches two numbers further and adds 0 to them.
template <int D, class Index, class T>
inline void scatter(const Samples<D, Index, T>& s, T* sums, const Runs<D>& runs, int lanes, const T* g) {
  constexpr int kCount = Runs<D>::kCount;
  alignas(64) T weight[kCount][kLanes];
  run_weights(s, weight);
  T* run[kCount];
  for (int r = 0; r < kCount; ++r) run[r] = sums + runs.offset[r];
  for (int l = 0; l < lanes; ++l) {
    const int64_t cell = static_cast<int64_t>(s.offset[l]) * D;
    Pair<D, T> pair, sum;
    spread<D, T>(g + l * D, s.f[D - 1][l], pair);
    for (int r = 0; r < kCount; ++r) {
      std::memcpy(&sum, run[r] + cell, sizeof sum);
      sum += weight[r][l] * pair;
      std::memcpy(run[r] + cell, &sum, sizeof sum);
    }
  }
}

// The same, only for the planes [first, last), and without touching what lies behind the cells.
template <int D, class Index, class T>
inline void scatter_bounded(const Samples<D, Index, T>& s, T* sums, const Extent<D>& e, const Runs<D>& runs, int lanes, const T* g, int64_t first, int64_t last) {
  constexpr int kCount = Runs<D>::kCount;
  alignas(64) T weight[kCount][kLanes];
  run_weights(s, weight);
  const int64_t plane_voxels = e.voxels() / e.n[0];
  const int numbers = e.n[D - 1] > 1 ? 2 * D : D;
  for (int l = 0; l < lanes; ++l) {
    Pair<D, T> pair;
    spread<D, T>(g + l * D, s.f[D - 1][l], pair);
    for (int r = 0; r < kCount; ++r) {
      const int64_t plane = s.offset[l] / plane_voxels + (e.n[0] > 1 ? r >> (D - 2) : 0);
      if (plane < first || plane >= last) continue;
      T* target = sums + static_cast<int64_t>(s.offset[l]) * D + runs.offset[r];
      const Pair<D, T> add = weight[r][l] * pair;
      for (int n = 0; n < numbers; ++n) target[n] += add[n];
    }
  }
}

template <int D, class Index, class T, class Grad, class From>
struct Backward {
  const Grad grad;
  const T* u;
  const From v;
  const bool square;
  T *grad_u, *grad_v;
  const FieldSizes& s;
  const Extent<D> field{s.field}, output{s.output};
  const Runs<D> runs{field};

  // A row of the output, with the gradient by v if it is `own`; adds to the planes [first, last) of grad_u, if there is one.
  void row(int64_t b, int64_t row, bool own, int64_t first, int64_t last) const {
    const int64_t nk = output.n[D - 1], field_voxels = field.voxels(), plane_voxels = field_voxels / field.n[0], plane_above = field.n[0] > 1 ? plane_voxels : 0;
    Samples<D, Index, T> samples;
    alignas(64) T c[D][kLanes] = {}, g[kLanes * D + 1] = {}, result[kLanes * D + 1];
    int64_t at[D];
    output.row(row, at);
    T* volume = grad_u + b * field_voxels * D;
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t voxel = row * nk + k0;
      v.read_rows(b, voxel, lanes, c);
      add_positions(c, at, k0);
      locate(samples, c, field, runs, (s.batch - b) * field_voxels);
      const bool reaches = grad_u && samples.lowest < last * plane_voxels && samples.highest + plane_above >= first * plane_voxels;
      if (!own && !reaches) continue;
      grad.read_packed(b, voxel, lanes, g);
      if (own) {
        grad_at_samples(samples, u + b * field_voxels * D, field, runs, lanes, g, result);
        if (square) {
          T* target = volume + voxel * D;
          if (lanes == kLanes) {
            for (int n = 0; n < kLanes * D; ++n) target[n] += result[n];
          } else {
            for (int n = 0; n < lanes * D; ++n) target[n] += result[n];
          }
        } else {
          PlanarField<D, T>{grad_v, output.voxels()}.write_packed(b, voxel, lanes, result);
        }
      }
      if (reaches) {
        // The vectors of the fast path reach two numbers past the last cell.
        const bool within = samples.lowest >= first * plane_voxels && samples.highest + plane_above + field.n[D - 1] + 3 <= last * plane_voxels;
        if (within && samples.known && field.n[D - 1] > 1) scatter(samples, volume, runs, lanes, g);
        else scatter_bounded(samples, volume, field, runs, lanes, g, first, last);
      }
    }
  }

  void run(int threads) const {
    const int64_t rows_each = output.rows(), planes = field.n[0], out_planes = output.n[0], rows_a_plane = rows_each / std::max<int64_t>(out_planes, 1);
    const Chunks chunks{s.batch * rows_each, kRowsPerJob};
    if (!grad_u) {
      parallel_for(chunks.count(), threads, [&](int64_t job) {
        for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) row(r / rows_each, r % rows_each, true, 0, 0);
      });
      return;
    }
    std::vector<Reach> reach(s.batch * rows_each);
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r)
        reach[r] = row_reach<D, T>(v, r / rows_each, r % rows_each, r % rows_each / rows_a_plane, output, planes);
    });
    // Slab n owns planes of grad_u and, for the gradient by v, the same share of the output's planes.
    const int64_t count = std::clamp<int64_t>(planes / kPlanesPerSlab, 1, kMostSlabs);
    parallel_for(s.batch * count, threads, [&](int64_t job) {
      const int64_t b = job / count, slab = job % count;
      const int64_t first = planes * slab / count, last = planes * (slab + 1) / count;
      const int64_t own_first = out_planes * slab / count * rows_a_plane, own_last = out_planes * (slab + 1) / count * rows_a_plane;
      const int64_t plane_numbers = field.voxels() / planes * D;
      std::fill_n(grad_u + b * field.voxels() * D + first * plane_numbers, (last - first) * plane_numbers, T(0));
      for (int64_t r = 0; r < rows_each; ++r) {
        const Reach& at = reach[b * rows_each + r];
        const bool own = (square || grad_v) && r >= own_first && r < own_last;
        if (own || (at.low < last && at.high >= first)) row(b, r, own, first, last);
      }
    });
  }
};

}  // namespace

template <class T>
void field_compose_backward(const T* grad, bool grad_packed, const T* u, const T* v, bool square, T* grad_u, T* grad_v, const FieldSizes& s, int threads) {
  const int64_t voxels = s.output_voxels();
  if (grad_u) advise_large_pages(grad_u, s.batch * s.dims * s.field_voxels());
  if (grad_v) advise_large_pages(grad_v, s.batch * s.dims * voxels);
  specialise_field(s, [&](auto D, auto index) {
    const auto run = [&](auto grad_of, auto from) {
      Backward<D, decltype(index), T, decltype(grad_of), decltype(from)>{grad_of, u, from, square, grad_u, grad_v, s}.run(threads);
    };
    const auto with_grad = [&](auto from) {
      if (grad_packed) run(PackedField<D, const T>{grad, voxels}, from);
      else run(PlanarField<D, const T>{grad, voxels}, from);
    };
    if (square) with_grad(PackedField<D, const T>{v, voxels});
    else with_grad(PlanarField<D, const T>{v, voxels});
  });
}

template void field_compose_backward<float>(const float*, bool, const float*, const float*, bool, float*, float*, const FieldSizes&, int);
template void field_compose_backward<double>(const double*, bool, const double*, const double*, bool, double*, double*, const FieldSizes&, int);

}  // namespace regkit
