// The distances D of MIND-SSC, row by row, in one march through a tile of the image.
//
// A tile is some rows (j) and planes (i) of one volume, all of k. Squared differences of a plane are summed along k and j and kept for the
// 2 radius + 1 planes of a box; their sum is the D of a row. Everything stays in scratch of some hundred kB, lanes run along k, and all
// sums are direct, not running: V, the difference of nearly equal D, would show the drift.
#pragma once
#include <algorithm>
#include <vector>

#include "core/mind.h"
#include "cpu/mind.h"
#include "cpu/parallel.h"

namespace regkit {

struct MindTiles {
  Chunks planes, rows;
  explicit MindTiles(const MindSizes& s, int channels)
      : planes{s.size[0], 32},
        rows{s.size[1], std::clamp<int64_t>(98304 / ((2 * s.radius + 1) * channels * std::max<int64_t>(s.size[2], 1)), 4, 32)} {}
  int64_t count() const { return planes.count() * rows.count(); }
};

template <class T>
class MindSweep {
 public:
  MindSweep(const MindSizes& s, const MindPairs& pairs, const T* volume, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
      : pairs_(pairs), volume_(volume), dilation_(s.dilation), i0_(i0), i1_(i1), j0_(j0), j1_(j1) {
    inverse_n_ = 1;
    for (int d = 0; d < 3; ++d) {
      n_[d] = s.size[d];
      r_[d] = d < 3 - s.dims ? 0 : s.radius;
      inverse_n_ /= static_cast<T>(2 * r_[d] + 1);
    }
    row0_ = std::max<int64_t>(0, j0 - r_[1]);
    row1_ = std::min(n_[1], j1 + r_[1]);
    slots_ = 2 * r_[0] + 1;
    padded_.resize(n_[2] + 2 * dilation_);
    squares_.resize(n_[2] + 2 * r_[2]);
    boxes_.resize(pairs.channels * (row1_ - row0_) * n_[2]);
    ring_.resize(slots_ * pairs.channels * (j1 - j0) * n_[2]);
    distances_.resize(pairs.channels * n_[2]);
  }

  // visit(i, j, distances) for every row of the tile; distances: `channels` rows of k, may be overwritten.
  template <class Visit>
  void run(Visit&& visit) {
    int64_t next = std::max<int64_t>(0, i0_ - r_[0]);
    for (int64_t i = i0_; i < i1_; ++i) {
      for (; next <= std::min(i + r_[0], n_[0] - 1); ++next) enter(next);
      for (int64_t j = j0_; j < j1_; ++j) {
        sum_planes(i, j);
        visit(i, j, distances_.data());
      }
    }
  }

  // The row of voxels that each neighbour of row (i, j) holds; valid until the next call.
  void neighbour_rows(int64_t i, int64_t j, const T* rows[6]) {
    const T* centre = row_at(i, j);
    std::copy_n(centre, n_[2], padded_.data() + dilation_);
    std::fill_n(padded_.data(), dilation_, centre[0]);
    std::fill_n(padded_.data() + dilation_ + n_[2], dilation_, centre[n_[2] - 1]);
    for (int s = 0; s < pairs_.neighbours; ++s) {
      const int* offset = pairs_.offset[s];
      rows[s] = offset[2] ? padded_.data() + dilation_ * (1 + offset[2]) : row_at(i + dilation_ * offset[0], j + dilation_ * offset[1]);
    }
  }

 private:
  const T* row_at(int64_t i, int64_t j) const {
    return volume_ + (std::clamp<int64_t>(i, 0, n_[0] - 1) * n_[1] + std::clamp<int64_t>(j, 0, n_[1] - 1)) * n_[2];
  }
  T* box(int c, int64_t j) { return boxes_.data() + (c * (row1_ - row0_) + std::clamp<int64_t>(j, 0, n_[1] - 1) - row0_) * n_[2]; }
  T* ring(int64_t i, int c, int64_t j) {
    const int64_t slot = std::clamp<int64_t>(i, 0, n_[0] - 1) % slots_;
    return ring_.data() + ((slot * pairs_.channels + c) * (j1_ - j0_) + (j - j0_)) * n_[2];
  }

  // Sums plane i along k and j.
  void enter(int64_t i) {
    const int64_t nk = n_[2], r = r_[2];
    for (int64_t j = row0_; j < row1_; ++j) {
      const T* rows[6];
      neighbour_rows(i, j, rows);
      for (int c = 0; c < pairs_.channels; ++c) {
        const T *a = rows[pairs_.first[c]], *b = rows[pairs_.second[c]];
        T* square = squares_.data();
        for (int64_t k = 0; k < nk; ++k) square[r + k] = (a[k] - b[k]) * (a[k] - b[k]);
        std::fill_n(square, r, square[r]);
        std::fill_n(square + r + nk, r, square[r + nk - 1]);
        T* sum = box(c, j);
        if (r == 1) {
          for (int64_t k = 0; k < nk; ++k) sum[k] = square[k] + square[k + 1] + square[k + 2];
        } else {
          std::copy_n(square, nk, sum);
          for (int64_t b2 = 1; b2 <= 2 * r; ++b2)
            for (int64_t k = 0; k < nk; ++k) sum[k] += square[k + b2];
        }
      }
    }
    for (int c = 0; c < pairs_.channels; ++c)
      for (int64_t j = j0_; j < j1_; ++j) add_rows(ring(i, c, j), r_[1], [&](int64_t offset) { return box(c, j + offset); });
  }

  void sum_planes(int64_t i, int64_t j) {
    for (int c = 0; c < pairs_.channels; ++c) {
      T* distance = distances_.data() + c * n_[2];
      add_rows(distance, r_[0], [&](int64_t offset) { return ring(i + offset, c, j); });
      for (int64_t k = 0; k < n_[2]; ++k) distance[k] *= inverse_n_;
    }
  }

  // target = sum of source(-r) ... source(r)
  template <class Source>
  void add_rows(T* target, int64_t r, Source&& source) {
    const int64_t nk = n_[2];
    if (r == 1) {
      const T *a = source(-1), *b = source(0), *c = source(1);
      for (int64_t k = 0; k < nk; ++k) target[k] = a[k] + b[k] + c[k];
      return;
    }
    std::copy_n(source(-r), nk, target);
    for (int64_t offset = 1 - r; offset <= r; ++offset) {
      const T* row = source(offset);
      for (int64_t k = 0; k < nk; ++k) target[k] += row[k];
    }
  }

  const MindPairs& pairs_;
  const T* volume_;
  int64_t dilation_, i0_, i1_, j0_, j1_, n_[3], r_[3], row0_, row1_, slots_;
  T inverse_n_;
  std::vector<T> padded_, squares_, boxes_, ring_, distances_;
};

// distances -= their minimum over the channels; variance = mean over the channels of what is left.
template <class T>
inline void subtract_minimum(T* distances, T* minimum, T* variance, int channels, int64_t n) {
  std::copy_n(distances, n, minimum);
  for (int c = 1; c < channels; ++c)
    for (int64_t k = 0; k < n; ++k) minimum[k] = distances[c * n + k] < minimum[k] ? distances[c * n + k] : minimum[k];
  std::fill_n(variance, n, T(0));
  for (int c = 0; c < channels; ++c) {
    T* q = distances + c * n;
    for (int64_t k = 0; k < n; ++k) {
      q[k] -= minimum[k];
      variance[k] += q[k];
    }
  }
  for (int64_t k = 0; k < n; ++k) variance[k] /= static_cast<T>(channels);
}

// Mean over each volume of V before clamping; the order of summation does not depend on the threads.
template <class T>
std::vector<T> mean_variances(const T* image, const MindSizes& s, const MindPairs& pairs, int threads) {
  const MindTiles tiles(s, pairs.channels);
  const int64_t voxels = s.size[0] * s.size[1] * s.size[2], nk = s.size[2];
  std::vector<double> partial(s.batch * tiles.count());
  parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
    const int64_t b = job / tiles.count(), p = job % tiles.count() / tiles.rows.count(), r = job % tiles.rows.count();
    std::vector<T> minimum(nk), variance(nk);
    double total = 0;
    MindSweep<T>(s, pairs, image + b * voxels, tiles.planes.begin(p), tiles.planes.end(p), tiles.rows.begin(r), tiles.rows.end(r))
        .run([&](int64_t, int64_t, T* distances) {
          subtract_minimum(distances, minimum.data(), variance.data(), pairs.channels, nk);
          double lanes[8] = {};
          int64_t k = 0;
          for (; k + 8 <= nk; k += 8)
            for (int l = 0; l < 8; ++l) lanes[l] += variance[k + l];
          for (; k < nk; ++k) lanes[0] += variance[k];
          for (double lane : lanes) total += lane;
        });
    partial[job] = total;
  });
  std::vector<T> means(s.batch);
  for (int64_t b = 0; b < s.batch; ++b) {
    double sum = 0;
    for (int64_t t = 0; t < tiles.count(); ++t) sum += partial[b * tiles.count() + t];
    means[b] = static_cast<T>(sum / static_cast<double>(voxels));
  }
  return means;
}

}  // namespace regkit
