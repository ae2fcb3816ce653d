// Gradient of MIND-SSC by the image. Saves nothing and stores no volume in between: distances are computed again.
//
// A job owns a tile of the image. It sweeps the distances of the tile and its surroundings, turns each row of gradients by the descriptors
// into gradients by the distances (kept in scratch, some MB), and gathers from those: the transpose of the box mean gives the gradient by
// each squared difference, which goes to the two voxels that were compared. Only the voxels of the tile are written, so results do not
// depend on the threads.
//
// Distances D are box sums here, as in the forward. With e_c = exp(-q_c / V), the gradient g_c of e_c, and low, high taken as constants:
//   d/dq_c = -g_c e_c / V + [low <= mean q <= high] (sum_b g_b e_b q_b) / V^2 / channels,      d/dD_c = d/dq_c - [c is the minimum] sum_b
//   d/dq_b
#include "cpu/mind.h"

#include "cpu/exponential.h"
#include "cpu/mind_rows.h"
#include "cpu/mind_variance.h"
#include "cpu/pages.h"

namespace regkit {
namespace {

constexpr int64_t kTile = 16;

// How many of the 2 r + 1 box offsets around x lead to y on an axis of n voxels with replicated borders.
inline int64_t multiplicity(int64_t x, int64_t y, int64_t n, int64_t r) {
  if (n == 1) return 2 * r + 1;
  const int64_t distance = x < y ? y - x : x - y;
  if (distance > r) return 0;
  return y == 0 || y == n - 1 ? r - distance + 1 : 1;
}

template <int C, int Radius, class Stored>
class TileGradient {
  using T = arithmetic<Stored>;

 public:
  TileGradient(const MindSizes& s, const MindPairs& pairs, const T* volume, const int64_t* begin, const int64_t* end)
      : s_(s), pairs_(pairs), volume_(volume), nk_(s.size[2]) {
    for (int d = 0; d < 3; ++d) {
      r_[d] = d < 3 - s.dims ? 0 : s.radius;
      begin_[d] = begin[d];
      end_[d] = end[d];
      // Differences that read the tile, and boxes that hold those differences.
      near_begin_[d] = std::max<int64_t>(0, begin[d] - s.dilation);
      near_end_[d] = std::min(s.size[d], end[d] + s.dilation);
      far_begin_[d] = std::max<int64_t>(0, near_begin_[d] - r_[d]);
      far_end_[d] = std::min(s.size[d], near_end_[d] + r_[d]);
    }
    by_distance_.resize(pairs.channels * (far_end_[0] - far_begin_[0]) * (far_end_[1] - far_begin_[1]) * nk_);
    for (auto* row : {&pull_, &rest_, &difference_}) row->resize(nk_);
    distances_ = ScratchRows<T>(C, nk_ + kLaneCount<T>);
    grad_ = ScratchRows<T>(C, nk_);
    variance_ = ScratchRows<T>(1, nk_ + kLaneCount<T>);
    padded_.resize(nk_ + 2 * s.dilation);
    box_.resize(nk_ + 2 * r_[2]);
    by_neighbour_.resize(pairs.neighbours * nk_);
  }

  // grad: of this volume's descriptors; gradient: its voxels, of which the tile is written.
  void run(const Stored* grad, const MindBounds<T>& bounds, T* gradient) {
    MindSweep<T>(s_, pairs_, volume_, far_begin_[0], far_end_[0], far_begin_[1], far_end_[1])
        .run([&](int64_t i, int64_t j, const ScratchRows<T>& boxes) {
          for (int64_t k = 0; k < nk_; k += kLaneCount<T>) {
            Lanes<T> q[C];
            store_lanes(variance_.row(0) + k, distances<C, Radius>(boxes, k, s_.radius, q));
            for (int c = 0; c < C; ++c) store_lanes(distances_.row(c) + k, q[c]);
          }
          read_row<C>(grad, s_, i, j, grad_);
          distance_gradients(bounds, i, j);
        });
    for (int64_t i = begin_[0]; i < end_[0]; ++i)
      std::fill_n(gradient + (i * s_.size[1] + begin_[1]) * nk_, (end_[1] - begin_[1]) * nk_, T(0));
    for (int64_t i = near_begin_[0]; i < near_end_[0]; ++i)
      for (int64_t j = near_begin_[1]; j < near_end_[1]; ++j) {
        const T* rows[6];
        neighbour_rows(i, j, rows);
        neighbour_gradients(i, j, rows);
        for (int s = 0; s < pairs_.neighbours; ++s) add_row(i, j, pairs_.offset[s], by_neighbour_.data() + s * nk_, gradient);
      }
  }

 private:
  T* by_distance(int c, int64_t i, int64_t j) {
    return by_distance_.data() +
           ((c * (far_end_[0] - far_begin_[0]) + i - far_begin_[0]) * (far_end_[1] - far_begin_[1]) + j - far_begin_[1]) * nk_;
  }

  void distance_gradients(const MindBounds<T>& bounds, int64_t i, int64_t j) {
    const T* variance = variance_.row(0);
    std::fill(pull_.begin(), pull_.end(), T(0));
    std::fill(rest_.begin(), rest_.end(), T(0));
    for (int c = 0; c < C; ++c) {
      const T *q = distances_.row(c), *g = grad_.row(c);
      T* out = by_distance(c, i, j);
      for (int64_t k = 0; k < nk_; ++k) {
        const T inverse = 1 / bounds.clamp(variance[k]);
        out[k] = -g[k] * exp2_nonpositive(-q[k] * inverse * T(1.4426950408889634)) * inverse;
        pull_[k] -= out[k] * q[k];
        rest_[k] += out[k];
      }
    }
    for (int64_t k = 0; k < nk_; ++k) {
      const T clamped = bounds.clamp(variance[k]);
      pull_[k] = clamped == variance[k] ? pull_[k] / clamped : T(0);
      rest_[k] += pull_[k];
      pull_[k] *= T(1) / C;
    }
    for (int c = 0; c < C; ++c) {
      const T* q = distances_.row(c);
      T* out = by_distance(c, i, j);
      for (int64_t k = 0; k < nk_; ++k) {
        const T take = q[k] == 0 ? rest_[k] : T(0);  // the first minimum takes all
        out[k] += pull_[k] - take;
        rest_[k] -= take;
      }
    }
  }

  // The row of voxels that each neighbour of row (i, j) holds; valid until the next call.
  void neighbour_rows(int64_t i, int64_t j, const T* rows[6]) {
    const int64_t reach = s_.dilation;
    const auto row_at = [&](int64_t x, int64_t y) {
      return volume_ + (std::clamp<int64_t>(x, 0, s_.size[0] - 1) * s_.size[1] + std::clamp<int64_t>(y, 0, s_.size[1] - 1)) * nk_;
    };
    const T* centre = row_at(i, j);
    std::fill_n(padded_.data(), reach, centre[0]);
    std::copy_n(centre, nk_, padded_.data() + reach);
    std::fill_n(padded_.data() + reach + nk_, reach, centre[nk_ - 1]);
    for (int s = 0; s < pairs_.neighbours; ++s) {
      const int* offset = pairs_.offset[s];
      rows[s] = offset[2] ? padded_.data() + reach * (1 + offset[2]) : row_at(i + reach * offset[0], j + reach * offset[1]);
    }
  }

  // The gradient by the voxel that each neighbour of each voxel of row (i, j) is.
  void neighbour_gradients(int64_t i, int64_t j, const T* const* rows) {
    std::fill(by_neighbour_.begin(), by_neighbour_.end(), T(0));
    for (int c = 0; c < C; ++c) {
      transpose_box(c, i, j);
      const T *a = rows[pairs_.first[c]], *b = rows[pairs_.second[c]];
      T *to_a = by_neighbour_.data() + pairs_.first[c] * nk_, *to_b = by_neighbour_.data() + pairs_.second[c] * nk_;
      for (int64_t k = 0; k < nk_; ++k) {
        const T weight = 2 * (a[k] - b[k]) * difference_[k];
        to_a[k] += weight;
        to_b[k] -= weight;
      }
    }
  }

  // difference_ = gradient by the squared differences of channel c in row (i, j).
  void transpose_box(int c, int64_t i, int64_t j) {
    const int64_t r = r_[2];
    std::fill(box_.begin(), box_.end(), T(0));
    T* sum = box_.data() + r;
    for (int64_t x = std::max(far_begin_[0], i - r_[0]); x < std::min(far_end_[0], i + r_[0] + 1); ++x)
      for (int64_t y = std::max(far_begin_[1], j - r_[1]); y < std::min(far_end_[1], j + r_[1] + 1); ++y) {
        const T weight = static_cast<T>(multiplicity(x, i, s_.size[0], r_[0]) * multiplicity(y, j, s_.size[1], r_[1]));
        const T* row = by_distance(c, x, y);
        for (int64_t k = 0; k < nk_; ++k) sum[k] += weight * row[k];
      }
    std::copy_n(box_.data(), nk_, difference_.data());
    for (int64_t offset = 1; offset <= 2 * r; ++offset)
      for (int64_t k = 0; k < nk_; ++k) difference_[k] += box_[k + offset];
    for (const int64_t edge : {int64_t(0), nk_ - 1}) {
      difference_[edge] = 0;
      for (int64_t k = std::max<int64_t>(0, edge - r); k < std::min(nk_, edge + r + 1); ++k)
        difference_[edge] += static_cast<T>(multiplicity(k, edge, nk_, r)) * sum[k];
    }
  }

  void add_row(int64_t i, int64_t j, const int* offset, const T* row, T* gradient) {
    const int64_t delta = s_.dilation;
    const int64_t at[2] = {std::clamp<int64_t>(i + delta * offset[0], 0, s_.size[0] - 1),
                           std::clamp<int64_t>(j + delta * offset[1], 0, s_.size[1] - 1)};
    if (at[0] < begin_[0] || at[0] >= end_[0] || at[1] < begin_[1] || at[1] >= end_[1]) return;
    T* target = gradient + (at[0] * s_.size[1] + at[1]) * nk_;
    const int64_t shift = delta * offset[2], first = std::clamp<int64_t>(-shift, 0, nk_),
                  last = std::clamp<int64_t>(nk_ - shift, first, nk_);
    for (int64_t k = 0; k < first; ++k) target[0] += row[k];
    for (int64_t k = first; k < last; ++k) target[k + shift] += row[k];
    for (int64_t k = last; k < nk_; ++k) target[nk_ - 1] += row[k];
  }

  const MindSizes& s_;
  const MindPairs& pairs_;
  const T* volume_;
  int64_t nk_, r_[3], begin_[3], end_[3], near_begin_[3], near_end_[3], far_begin_[3], far_end_[3];
  ScratchRows<T> distances_, grad_, variance_;
  std::vector<T> by_distance_, pull_, rest_, difference_, padded_, box_, by_neighbour_;
};

}  // namespace

template <class Stored>
void mind_ssc_backward(const Stored* grad, const arithmetic<Stored>* image, arithmetic<Stored>* grad_image, const MindSizes& s,
                       int threads) {
  using T = arithmetic<Stored>;
  if (s.batch * s.voxels() == 0) return;
  const MindPairs pairs(s.dims);
  const std::vector<T> means = mean_variances(image, s, pairs, threads);
  const Chunks planes{s.size[0], kTile}, rows{s.size[1], kTile};
  const int64_t tiles = planes.count() * rows.count();
  advise_large_pages(grad_image, s.batch * s.voxels());
  specialised(s, [&](auto channels, auto radius) {
    constexpr int C = decltype(channels)::value, Radius = decltype(radius)::value;
    parallel_for(s.batch * tiles, threads, [&](int64_t job) {
      const int64_t b = job / tiles, p = job % tiles / rows.count(), r = job % rows.count();
      const int64_t begin[3] = {planes.begin(p), rows.begin(r), 0}, end[3] = {planes.end(p), rows.end(r), s.size[2]};
      TileGradient<C, Radius, Stored>(s, pairs, image + b * s.voxels(), begin, end)
          .run(grad + b * C * s.pooled().voxels(), MindBounds<T>(means[b], box_voxels<T>(s)), grad_image + b * s.voxels());
    });
  });
}

template void mind_ssc_backward(const float*, const float*, float*, const MindSizes&, int);
template void mind_ssc_backward(const double*, const double*, double*, const MindSizes&, int);
template void mind_ssc_backward(const float16*, const float*, float*, const MindSizes&, int);
template void mind_ssc_backward(const bfloat16*, const float*, float*, const MindSizes&, int);

}  // namespace regkit
