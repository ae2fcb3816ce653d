// The box sums of MIND-SSC along i and j, row by row, in one march through a tile of the image; what remains is the sum along k, which
// whoever visits a row does in registers.
//
// A tile is some rows (j) and planes (i) of one volume, all of k. Marching along i, each plane is copied with its borders continued, its
// squared differences are taken once for the two channels that share them (core/mind.h) and summed along j, and the last planes of those
// sums are kept. A box clamps its voxels before it looks at their neighbours: so sums are looked up by the list of rows they are made of,
// and channels share a sum where those lists agree, which away from the borders is everywhere. Everything stays in scratch of some hundred
// kB. All sums are direct, not running: V, the difference of nearly equal sums, would show the drift.
#pragma once
#include <algorithm>
#include <vector>

#include "core/mind.h"
#include "cpu/lanes.h"
#include "cpu/mind.h"
#include "cpu/parallel.h"

namespace regkit {

// Rows of scratch, each on cache lines of its own, zero at first.
template <class T>
class ScratchRows {
 public:
  ScratchRows() = default;
  ScratchRows(int64_t rows, int64_t length)
      : pitch_((length * static_cast<int64_t>(sizeof(T)) + kLine - 1) / kLine * (kLine / sizeof(T))),
        lines_(rows * pitch_ * static_cast<int64_t>(sizeof(T)) / kLine) {}
  T* row(int64_t r) { return reinterpret_cast<T*>(lines_.data()) + r * pitch_; }
  const T* row(int64_t r) const { return const_cast<ScratchRows*>(this)->row(r); }

 private:
  static constexpr int64_t kLine = 64;
  struct alignas(kLine) Line {
    char bytes[kLine] = {};
  };
  int64_t pitch_ = 0;
  std::vector<Line> lines_;
};

template <class T>
class MindSweep {
 public:
  MindSweep(const MindSizes& s, const MindPairs& pairs, const T* volume, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
      : pairs_(pairs), volume_(volume), dilation_(s.dilation), i0_(i0), i1_(i1), j0_(j0), j1_(j1) {
    for (int d = 0; d < 3; ++d) {
      n_[d] = s.size[d];
      r_[d] = d < 3 - s.dims ? 0 : s.radius;
    }
    reach_i_ = s.dims == 3 ? dilation_ : 0;
    row0_ = std::max<int64_t>(0, j0 - r_[1]);
    row1_ = std::min(n_[1], j1 + r_[1]);
    list_sums();
    planes_ = 2 * r_[0] + reach_i_ + 1;
    const int64_t rows = row1_ - row0_ + 2 * dilation_, slack = kLaneCount<T>;
    image_ = ScratchRows<T>((reach_i_ + 1) * rows, n_[2] + 4 * dilation_ + slack);
    squares_ = ScratchRows<T>(rows, n_[2] + 2 * dilation_ + slack);
    ring_ = ScratchRows<T>(planes_ * static_cast<int64_t>(sums_.size()), n_[2] + 2 * dilation_ + slack);
    boxes_ = ScratchRows<T>(pairs.channels, n_[2] + 2 * r_[2] + slack);
  }

  // visit(i, j, rows) for every row of the tile; rows.row(c) holds the sums along i and j of channel c for voxels -r ... n - 1 + r of k,
  // and may be read for a vector more.
  template <class Visit>
  void run(Visit&& visit) {
    int64_t next = std::max<int64_t>(0, i0_ - r_[0]);
    for (int64_t i = next - reach_i_; i < next; ++i) copy_plane(i);
    for (int64_t i = i0_; i < i1_; ++i) {
      for (; next <= std::min(i + r_[0], n_[0] - 1) + reach_i_; ++next) enter(next);
      for (int64_t j = j0_; j < j1_; ++j) {
        sum_planes(i, j);
        visit(i, j, static_cast<const ScratchRows<T>&>(boxes_));
      }
    }
  }

 private:
  // The sum of the squares of `vector` over these rows.
  struct Sum {
    int vector;
    std::vector<int64_t> rows;
    bool operator==(const Sum& other) const { return vector == other.vector && rows == other.rows; }
  };

  void list_sums() {
    for (int c = 0; c < pairs_.channels; ++c)
      for (int64_t j = j0_; j < j1_; ++j) {
        Sum sum{pairs_.vector_of[c], {}};
        for (int64_t o = -r_[1]; o <= r_[1]; ++o)
          sum.rows.push_back(std::clamp<int64_t>(j + o, 0, n_[1] - 1) + dilation_ * pairs_.base[c][1]);
        const auto at = std::find(sums_.begin(), sums_.end(), sum);
        sum_of_.push_back(at - sums_.begin());
        if (at != sums_.end()) continue;
        sums_of_vector_[sum.vector].push_back(static_cast<int64_t>(sums_.size()));
        sums_.push_back(std::move(sum));
      }
  }

  // Rows of voxels and squares: the rows of the tile's boxes, and `dilation` more on both sides.
  T* image_row(int64_t i, int64_t j) {
    const int64_t slot = (i + reach_i_) % (reach_i_ + 1);
    return image_.row(slot * (row1_ - row0_ + 2 * dilation_) + j - row0_ + dilation_);
  }
  T* square_row(int64_t j) { return squares_.row(j - row0_ + dilation_); }
  T* ring_row(int64_t i, int64_t sum) { return ring_.row(i % planes_ * static_cast<int64_t>(sums_.size()) + sum); }

  // Plane i, continued by 2 dilation along k and by dilation along j: voxel k is element 2 dilation + k of a row.
  void copy_plane(int64_t i) {
    const int64_t lead = 2 * dilation_, nk = n_[2];
    const T* plane = volume_ + std::clamp<int64_t>(i, 0, n_[0] - 1) * n_[1] * nk;
    for (int64_t j = row0_ - dilation_; j < row1_ + dilation_; ++j) {
      const T* source = plane + std::clamp<int64_t>(j, 0, n_[1] - 1) * nk;
      T* row = image_row(i, j);
      std::fill_n(row, lead, source[0]);
      std::copy_n(source, nk, row + lead);
      std::fill_n(row + lead + nk, lead, source[nk - 1]);
    }
  }

  // Squares of plane i, summed along j. Voxel k is element dilation + k of their rows.
  void enter(int64_t i) {
    const int64_t width = n_[2] + 2 * dilation_;
    copy_plane(i);
    for (int v = 0; v < pairs_.vectors; ++v) {
      const int* vector = pairs_.vector[v];
      int lowest = 1, highest = -1;
      for (int c = 0; c < pairs_.channels; ++c)
        if (pairs_.vector_of[c] == v) {
          lowest = std::min(lowest, pairs_.base[c][1]);
          highest = std::max(highest, pairs_.base[c][1]);
        }
      for (int64_t j = row0_ + dilation_ * lowest; j < row1_ + dilation_ * highest; ++j) {
        const T* a = image_row(i, j) + dilation_;
        const T* b = image_row(i + dilation_ * vector[0], j + dilation_ * vector[1]) + dilation_ * (1 + vector[2]);
        T* square = square_row(j);
        for (int64_t k = 0; k < width; k += kLaneCount<T>) {
          const Lanes<T> difference = load_lanes(a + k) - load_lanes(b + k);
          store_lanes(square + k, difference * difference);
        }
      }
      for (const int64_t sum : sums_of_vector_[v]) {
        const std::vector<int64_t>& rows = sums_[sum].rows;
        add_rows(ring_row(i, sum), width, r_[1], [&](int64_t o) { return square_row(rows[o]); });
      }
    }
  }

  void sum_planes(int64_t i, int64_t j) {
    const int64_t r = r_[2], nk = n_[2];
    for (int c = 0; c < pairs_.channels; ++c) {
      T* box = boxes_.row(c);
      const int64_t shift = dilation_ * (1 + pairs_.base[c][2]), sum = sum_of_[c * (j1_ - j0_) + j - j0_];
      add_rows(box + r, nk, r_[0], [&](int64_t o) {
        return ring_row(std::clamp<int64_t>(i + o - r_[0], 0, n_[0] - 1) + dilation_ * pairs_.base[c][0], sum) + shift;
      });
      std::fill_n(box, r, box[r]);
      std::fill_n(box + r + nk, r, box[r + nk - 1]);
    }
  }

  // target = sum of source(0) ... source(2 r); writes whole vectors.
  template <class Source>
  static void add_rows(T* target, int64_t width, int64_t r, Source&& source) {
    if (r == 1) {
      const T *a = source(0), *b = source(1), *c = source(2);
      for (int64_t k = 0; k < width; k += kLaneCount<T>) store_lanes(target + k, load_lanes(a + k) + load_lanes(b + k) + load_lanes(c + k));
      return;
    }
    std::copy_n(source(0), width, target);
    for (int64_t o = 1; o <= 2 * r; ++o) {
      const T* row = source(o);
      for (int64_t k = 0; k < width; k += kLaneCount<T>) store_lanes(target + k, load_lanes(target + k) + load_lanes(row + k));
    }
  }

  const MindPairs& pairs_;
  const T* volume_;
  int64_t dilation_, i0_, i1_, j0_, j1_, n_[3], r_[3], reach_i_, row0_, row1_, planes_;
  std::vector<Sum> sums_;
  std::vector<int64_t> sums_of_vector_[6], sum_of_;  // sum_of_: of every (channel, row of the tile)
  ScratchRows<T> image_, squares_, ring_, boxes_;
};

// The tiles of a volume; what they hold in scratch fits in the L2 cache.
struct MindTiles {
  Chunks planes, rows;
  explicit MindTiles(const MindSizes& s)
      : planes{s.size[0], whole_blocks(32, s.pool_of(0))},
        rows{s.size[1], whole_blocks(std::clamp<int64_t>(16384 / (kept_planes(s) * std::max<int64_t>(s.size[2], 1)), 4, 32), s.pool)} {}
  static int64_t kept_planes(const MindSizes& s) { return 2 * s.radius + s.dilation + 1; }
  static int64_t whole_blocks(int64_t n, int64_t pool) { return (n + pool - 1) / pool * pool; }
  int64_t count() const { return planes.count() * rows.count(); }

  template <class T>
  MindSweep<T> sweep(const MindSizes& s, const MindPairs& pairs, const T* volume, int64_t tile) const {
    const int64_t p = tile / rows.count(), r = tile % rows.count();
    return MindSweep<T>(s, pairs, volume, planes.begin(p), planes.end(p), rows.begin(r), rows.end(r));
  }
};

}  // namespace regkit
