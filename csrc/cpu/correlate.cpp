// Correlation of keypoint patches on the CPU. Bytes a displacement: one result written; the window of the moving image is read once per
// keypoint, mostly from cache because keypoints are visited by locality. FLOPs: 3 C P (ssd) or 2 C P (dot), P samples a patch:
// compute-bound from P = 27 on.
//
// One keypoint at a time: the windows of a few channels are gathered into scratch that stays in the L2 cache, then blocks of consecutive
// displacements are summed in registers over all (channel, patch sample) pairs: one unaligned load and two arithmetic instructions each.
// Differences are squared as they are (not F^2 - 2FM + M^2), so that no precision is lost where patches match.
#include "cpu/correlate.h"

#include <cmath>

#include "core/correlate.h"
#include "cpu/correlate_window.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kKeypointsPerJob = 16;
constexpr int64_t kScratchBytes = 256 << 10;
constexpr int kMaxVectors = 8;

enum class Term { squared_difference, product, value };

template <class T>
struct Pair {
  T fixed;
  const T* moving;
};

// sums[0, V vectors) += term(fixed, moving) over all pairs.
template <Term term, int V, class T>
void add_pairs(T* sums, const std::vector<Pair<T>>& pairs, int64_t offset) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> s[V];
  for (int v = 0; v < V; ++v) s[v] = load_lanes(sums + offset + v * L);
  for (const Pair<T>& pair : pairs) {
    const T* moving = pair.moving + offset;
    for (int v = 0; v < V; ++v) {
      const Lanes<T> m = load_lanes(moving + v * L);
      if constexpr (term == Term::squared_difference) {
        const Lanes<T> difference = pair.fixed - m;
        s[v] += difference * difference;
      } else if constexpr (term == Term::product) {
        s[v] += pair.fixed * m;
      } else {
        s[v] += m;
      }
    }
  }
  for (int v = 0; v < V; ++v) store_lanes(sums + offset + v * L, s[v]);
}

// The same for any number of vectors: blocks of nearly equal size, at most kMaxVectors.
template <Term term, class T>
void add_run(T* sums, const std::vector<Pair<T>>& pairs, int64_t length) {
  constexpr int L = kLaneCount<T>;
  const int64_t vectors = (length + L - 1) / L, blocks = (vectors + kMaxVectors - 1) / kMaxVectors;
  for (int64_t block = 0, at = 0; block < blocks; ++block) {
    const int64_t size = (vectors - at + blocks - block - 1) / (blocks - block), offset = at * L;
    switch (size) {
      case 1: add_pairs<term, 1>(sums, pairs, offset); break;
      case 2: add_pairs<term, 2>(sums, pairs, offset); break;
      case 3: add_pairs<term, 3>(sums, pairs, offset); break;
      case 4: add_pairs<term, 4>(sums, pairs, offset); break;
      case 5: add_pairs<term, 5>(sums, pairs, offset); break;
      case 6: add_pairs<term, 6>(sums, pairs, offset); break;
      case 7: add_pairs<term, 7>(sums, pairs, offset); break;
      default: add_pairs<term, 8>(sums, pairs, offset); break;
    }
    at += size;
  }
}

template <class Stored>
class Correlator {
  using T = arithmetic<Stored>;

 public:
  Correlator(const CorrelateSizes& sizes, const SearchLayout& layout) : s_(sizes), layout_(layout) {
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

  // The sums over patch and channels for every displacement of one keypoint.
  void run(const Stored* fixed, const Stored* moving, const Stored* moving_end, const Position& keypoint, const Position& center) {
    gather_patch(layout_, fixed, s_.channels, s_.fixed, keypoint, patch_.data());
    std::fill(sums_.begin(), sums_.end(), T(0));
    std::fill(norms_.begin(), norms_.end(), T(0));
    const int64_t voxels = s_.moving[0] * s_.moving[1] * s_.moving[2];
    for (const Phase& phase : layout_.phases) {
      std::fill(squares_.begin(), squares_.end(), T(0));
      for (int64_t c0 = 0; c0 < s_.channels; c0 += group_) {
        const int64_t count = std::min(group_, s_.channels - c0);
        for (int64_t c = 0; c < count; ++c)
          gather_window(layout_, phase, moving + (c0 + c) * voxels, moving_end, s_.moving, center, 0, layout_.window[0],
                        windows_.data() + c * layout_.window_size);
        pairs_.clear();
        for (int64_t c = 0; c < count; ++c)
          for (const Tap& tap : phase.taps)
            pairs_.push_back({patch_[(c0 + c) * layout_.patch_count + tap.patch], windows_.data() + c * layout_.window_size + tap.shift});
        if (s_.metric == static_cast<int>(Metric::ssd)) add<Term::squared_difference>(sums_);
        else add<Term::product>(sums_);
        for (int64_t c = 0; cosine() && c < count; ++c) {
          const T* window = windows_.data() + c * layout_.window_size;
          for (int64_t x = 0; x < layout_.window_size; ++x) squares_[x] += window[x] * window[x];
        }
      }
      if (cosine()) {
        pairs_.clear();
        for (const Tap& tap : phase.taps) pairs_.push_back({T(1), squares_.data() + tap.shift});
        add<Term::value>(norms_);
      }
    }
  }

  void write(Stored* out) const {
    const T norm = fixed_norm(), scale = T(1) / static_cast<T>(layout_.patch_count);
    for_rows([&](int64_t at, int64_t first, int64_t cells) {
      const T* sums = sums_.data() + at;
      if (cosine()) {
        const T* squares = norms_.data() + at;
        for (int64_t k = 0; k < cells; ++k)
          out[first + k] = store<Stored>(cosine_terms(sums[k], norm, std::sqrt(squares[k]), T(0)).similarity);
      } else {
        for (int64_t k = 0; k < cells; ++k) out[first + k] = store<Stored>(scale * sums[k]);
      }
    });
  }

  // alpha and beta of every displacement for its gradient; returns gamma.
  T write_cosine_terms(const T* grad, T* alpha, T* beta) const {
    const T norm = fixed_norm();
    T gamma = 0;
    for_rows([&](int64_t at, int64_t first, int64_t cells) {
      for (int64_t k = 0; k < cells; ++k) {
        const CosineTerms<T> t = cosine_terms(sums_[at + k], norm, std::sqrt(norms_[at + k]), grad[first + k]);
        alpha[first + k] = t.alpha;
        beta[first + k] = t.beta;
        gamma += t.gamma;
      }
    });
    return gamma;
  }

 private:
  bool cosine() const { return s_.metric == static_cast<int>(Metric::cosine); }

  template <Term term>
  void add(std::vector<T>& sums) {
    std::vector<Pair<T>> plane = pairs_;
    for (int64_t i = 0; i < layout_.planes; ++i) {
      add_run<term>(sums.data() + i * sum_pitch_, plane, layout_.length);
      for (Pair<T>& pair : plane) pair.moving += layout_.plane_cells();
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

  const CorrelateSizes& s_;
  const SearchLayout& layout_;
  int64_t group_, sum_pitch_;
  std::vector<T> windows_, patch_, sums_, squares_, norms_;
  std::vector<Pair<T>> pairs_;
};

// visit(correlator, n) after the sums of every keypoint n.
template <class Stored, class Visit>
void for_keypoints(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, const CorrelateSizes& s,
                   int threads, Visit&& visit) {
  const SearchLayout layout(s);
  const std::vector<int64_t> order = by_locality(centers, s);
  const Stored* moving_end = moving + s.batch * s.channels * s.moving_voxels();
  const Chunks chunks{s.batch * s.keypoints, kKeypointsPerJob};
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    Correlator<Stored> correlator(s, layout);
    for (int64_t item = chunks.begin(job); item < chunks.end(job); ++item) {
      const int64_t n = order[item], channel = n / s.keypoints * s.channels;
      correlator.run(fixed + channel * s.fixed_voxels(), moving + channel * s.moving_voxels(), moving_end,
                     Position(keypoints + n * s.dims, s.dims), Position(centers + n * s.dims, s.dims));
      visit(correlator, n);
    }
  });
}

}  // namespace

template <class Stored>
void correlate(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, Stored* out,
               const CorrelateSizes& s, int threads) {
  const int64_t displacements = SearchLayout(s).displacements;
  for_keypoints(fixed, moving, keypoints, centers, s, threads,
                [&](const Correlator<Stored>& c, int64_t n) { c.write(out + n * displacements); });
}

template <class Stored, class T>
void correlate_cosine_terms(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, const T* grad,
                            T* alpha, T* beta, T* gamma, const CorrelateSizes& s, int threads) {
  const int64_t displacements = SearchLayout(s).displacements;
  for_keypoints(fixed, moving, keypoints, centers, s, threads, [&](const Correlator<Stored>& c, int64_t n) {
    gamma[n] = c.write_cosine_terms(grad + n * displacements, alpha + n * displacements, beta + n * displacements);
  });
}

#define REGKIT_INSTANTIATE(S)                                                                                                       \
  template void correlate<S>(const S*, const S*, const int64_t*, const int64_t*, S*, const CorrelateSizes&, int);                   \
  template void correlate_cosine_terms<S>(const S*, const S*, const int64_t*, const int64_t*, const arithmetic<S>*, arithmetic<S>*, \
                                          arithmetic<S>*, arithmetic<S>*, const CorrelateSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
REGKIT_INSTANTIATE(float16)
REGKIT_INSTANTIATE(bfloat16)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
