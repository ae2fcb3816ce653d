// The similarities of one keypoint to all displacements of its search cube, in scratch: what every op on the cube starts from.
//
// The windows of a few channels are gathered into scratch that stays in the L2 cache, then blocks of consecutive displacements are summed
// in registers over all (channel, patch sample) pairs: one unaligned load and two arithmetic instructions each. A patch of one voxel would
// read its window only once: there the rows of the image are summed where they lie. Differences are squared as they are (not F^2 - 2FM +
// M^2), so that no precision is lost where patches match.
#pragma once
#include <cmath>

#include "core/correlate.h"
#include "cpu/correlate_sums.h"
#include "cpu/correlate_window.h"
#include "cpu/parallel.h"

namespace regkit {

constexpr int64_t kScratchBytes = 256 << 10;

template <class Stored>
class Correlator {
  using T = arithmetic<Stored>;

 public:
  Correlator(const SearchCall<Stored>& call, const SearchLayout& layout) : call_(call), s_(call.sizes), layout_(layout) {
    const int64_t slack = 2 * kLaneCount<T>;
    group_ = std::clamp<int64_t>(kScratchBytes / (layout.window_size * sizeof(T)), 1, std::max<int64_t>(s_.channels, 1));
    sum_pitch_ = layout.length + slack;
    windows_.assign(group_ * layout.window_size + slack, T(0));
    patch_.resize(s_.channels * layout.patch_count);
    sums_.resize(layout.planes * sum_pitch_);
    if (cosine()) {
      squares_.assign(layout.window_size + slack, T(0));
      norms_.resize(sums_.size());
    }
  }

  // The sums over patch and channels for every displacement of keypoint n, counted over the whole batch.
  void run(int64_t n) {
    const int64_t item = n / s_.keypoints;
    const FeatureImage<Stored> fixed(call_.fixed, s_.fixed, s_.batch, s_.channels, item);
    const FeatureImage<Stored> moving(call_.moving, s_.moving, s_.batch, s_.channels, item);
    const Position center(call_.centers + n * s_.dims, s_.dims);
    gather_patch(layout_, fixed, 0, s_.channels, Position(call_.keypoints + n * s_.dims, s_.dims), patch_.data());
    if (run_in_place(moving, center)) return;
    std::fill(sums_.begin(), sums_.end(), T(0));
    std::fill(norms_.begin(), norms_.end(), T(0));
    for (const Phase& phase : layout_.phases) {
      std::fill(squares_.begin(), squares_.end(), T(0));
      for (int64_t c0 = 0; c0 < s_.channels; c0 += group_) add_channels(moving, center, phase, c0, std::min(group_, s_.channels - c0));
      if (cosine()) {
        pairs_.clear();
        for (const Tap& tap : phase.taps) pairs_.push_back({T(1), squares_.data() + tap.shift});
        add<Term::value>(norms_);
      }
    }
  }

  // The similarities of all displacements, first axis slowest.
  template <class Out>
  void write(Out* out) const {
    const T norm = fixed_norm(), scale = T(1) / static_cast<T>(layout_.patch_count);
    for_rows([&](int64_t at, int64_t first, int64_t cells) {
      const T* sums = sums_.data() + at;
      if (cosine()) {
        const T* squares = norms_.data() + at;
        for (int64_t k = 0; k < cells; ++k)
          out[first + k] = store<Out>(cosine_terms(sums[k], norm, std::sqrt(squares[k]), T(0)).similarity);
      } else {
        for (int64_t k = 0; k < cells; ++k) out[first + k] = store<Out>(scale * sums[k]);
      }
    });
  }

  // Turns the gradient of every displacement into its alpha, and gives beta; returns gamma.
  T cosine_gradient(T* gradient, T* beta) const {
    const T norm = fixed_norm();
    T gamma = 0;
    for_rows([&](int64_t at, int64_t first, int64_t cells) {
      for (int64_t k = 0; k < cells; ++k) {
        const CosineTerms<T> t = cosine_terms(sums_[at + k], norm, std::sqrt(norms_[at + k]), gradient[first + k]);
        gradient[first + k] = t.alpha;
        beta[first + k] = t.beta;
        gamma += t.gamma;
      }
    });
    return gamma;
  }

 private:
  bool cosine() const { return s_.metric == static_cast<int>(Metric::cosine); }
  bool ssd() const { return s_.metric == static_cast<int>(Metric::ssd); }

  void add_channels(const FeatureImage<Stored>& moving, const Position& center, const Phase& phase, int64_t c0, int64_t count) {
    pairs_.clear();
    for (int64_t c = 0; c < count; ++c) {
      T* window = windows_.data() + c * layout_.window_size;
      gather_window(layout_, phase, moving, c0 + c, center, 0, layout_.window[0], window);
      for (const Tap& tap : phase.taps) pairs_.push_back({patch_[(c0 + c) * layout_.patch_count + tap.patch], window + tap.shift});
    }
    if (ssd()) add<Term::squared_difference>(sums_);
    else add<Term::product>(sums_);
    for (int64_t c = 0; cosine() && c < count; ++c) {
      const T* window = windows_.data() + c * layout_.window_size;
      for (int64_t x = 0; x < layout_.window_size; ++x) squares_[x] += window[x] * window[x];
    }
  }

  template <Term term>
  void add(std::vector<T>& sums) {
    std::vector<Pair<T>> plane = pairs_;
    for (int64_t i = 0; i < layout_.planes; ++i) {
      add_run<term>(sums.data() + i * sum_pitch_, plane, layout_.length);
      for (Pair<T>& pair : plane) pair.moving += layout_.plane_cells();
    }
  }

  // Sums the rows of the image where they lie; false where the patch has more voxels than one, or they don't lie in a row.
  bool run_in_place(const FeatureImage<Stored>& moving, const Position& center) {
    constexpr int64_t L = kLaneCount<T>;
    if (layout_.patch_count > 1 || layout_.stride > 1 || moving.voxel_step > 1 || s_.channels == 0) return false;
    const RowSpan span(center.at[2] + layout_.first[2], layout_.search[2], moving.size[2]);
    const Stored* last = moving.row(s_.channels - 1, center.at[0] + layout_.search[0], center.at[1] + layout_.search[1]) + span.first;
    if (moving.array_end - last < (span.count + L - 1) / L * L) return false;
    // Vectors beyond the end of a row write into the next one: the last columns of all rows come first, and rows in order.
    for (int64_t k = (span.count - 1) / (2 * L) * (2 * L); k >= 0; k -= 2 * L) {
      if (span.count - k > L) sum_columns<2>(moving, center, span.first + k, span.offset + k);
      else sum_columns<1>(moving, center, span.first + k, span.offset + k);
    }
    repeat_border(sums_.data(), span);
    if (cosine()) repeat_border(norms_.data(), span);
    return true;
  }

  template <int V>
  void sum_columns(const FeatureImage<Stored>& moving, const Position& center, int64_t start, int64_t cell) {
    const int64_t rows = layout_.search[0] * layout_.search[1];
    for (int64_t row = 0; row < rows; row += kRows) {
      const Stored* source[kRows];
      T *sums[kRows], *norms[kRows];
      for (int r = 0; r < kRows; ++r) {
        const int64_t x = std::min(row + r, rows - 1), i = x / layout_.search[1], j = x % layout_.search[1];
        source[r] = moving.row(0, center.at[0] + layout_.first[0] + i, center.at[1] + layout_.first[1] + j) + start;
        sums[r] = sums_.data() + x * layout_.search[2] + cell;
        norms[r] = norms_.data() + x * layout_.search[2] + cell;
      }
      if (ssd()) sum_channels<Term::squared_difference, false, V>(patch_.data(), s_.channels, source, moving.channel_step, sums, norms);
      else if (cosine()) sum_channels<Term::product, true, V>(patch_.data(), s_.channels, source, moving.channel_step, sums, norms);
      else sum_channels<Term::product, false, V>(patch_.data(), s_.channels, source, moving.channel_step, sums, norms);
    }
  }

  // Fills the cells of each row that lie outside the image.
  void repeat_border(T* sums, const RowSpan& span) const {
    const int64_t cells = layout_.search[2], end = span.offset + span.count;
    if (span.count == cells) return;
    for (T* row = sums; row < sums + layout_.displacements; row += cells) {
      std::fill(row, row + span.offset, row[span.offset]);
      std::fill(row + end, row + cells, row[end - 1]);
    }
  }

  T fixed_norm() const {
    T square = 0;
    for (T f : patch_) square += f * f;
    return std::sqrt(square);
  }

  // visit(offset in the sums, first displacement, count) for every run of consecutive displacements.
  template <class Visit>
  void for_rows(Visit&& visit) const {
    const int64_t cells = layout_.length == layout_.displacements ? layout_.length : layout_.search[2],
                  rows = layout_.displacements / layout_.planes / cells;
    for (int64_t i = 0; i < layout_.planes; ++i)
      for (int64_t j = 0; j < rows; ++j) visit(i * sum_pitch_ + j * layout_.window[2], (i * rows + j) * cells, cells);
  }

  const SearchCall<Stored>& call_;
  const CorrelateSizes& s_;
  const SearchLayout& layout_;
  int64_t group_, sum_pitch_;
  std::vector<T> windows_, patch_, sums_, squares_, norms_;
  std::vector<Pair<T>> pairs_;
};

// visit(correlators of one thread's job, keypoints of the job, their count): jobs of `grain` keypoints that are near each other.
template <class Stored, class Visit>
void for_keypoints(const SearchCall<Stored>& call, int64_t grain, Visit&& visit) {
  const SearchLayout layout(call.sizes);
  const std::vector<int64_t> order = by_locality(call.centers, call.sizes);
  const Chunks chunks{static_cast<int64_t>(order.size()), grain};
  parallel_for(chunks.count(), call.threads, [&](int64_t job) {
    Correlator<Stored> correlator(call, layout);
    visit(correlator, order.data() + chunks.begin(job), chunks.end(job) - chunks.begin(job));
  });
}

}  // namespace regkit
