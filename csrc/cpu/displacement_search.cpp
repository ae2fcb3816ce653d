// Expected and best displacement on the CPU. One keypoint at a time: its similarities are in scratch (some ten KB, which stay in the L1 or
// L2 cache), so nothing of the size of the map is ever written. Beside the similarities themselves the expectation costs one exp a
// displacement, in vectors. The moments of the weights come from their sums over planes and over the first axis, two additions a
// displacement, not one multiplication for each axis.
#include "core/displacement_search.h"

#include <limits>

#include "cpu/correlate_search.h"
#include "cpu/search_backward.h"

namespace regkit {
namespace {

constexpr int64_t kKeypointsPerJob = 16;

// The largest of n values, NaN where one is.
template <class T>
T largest(const T* values, int64_t n) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> most = Lanes<T>{} - std::numeric_limits<T>::infinity();
  decltype(most != most) odd = {};
  int64_t x = 0;
  for (; x + L <= n; x += L) {
    const Lanes<T> v = load_lanes(values + x);
    most = v > most ? v : most;
    odd |= v != v;
  }
  T result = -std::numeric_limits<T>::infinity();
  bool nan = false;
  for (int l = 0; l < L; ++l) {
    result = most[l] > result ? most[l] : result;
    nan |= odd[l] != 0;
  }
  for (; x < n; ++x) {
    result = values[x] > result ? values[x] : result;
    nan |= values[x] != values[x];
  }
  return nan ? std::numeric_limits<T>::quiet_NaN() : result;
}

template <class T>
T sum(const T* values, int64_t n) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> lanes = {};
  int64_t x = 0;
  for (; x + L <= n; x += L) lanes += load_lanes(values + x);
  T total = sum_lanes<T>(lanes);
  for (; x < n; ++x) total += values[x];
  return total;
}

// Expectation of one keypoint after another.
template <class T>
class Expectation {
 public:
  Expectation(const CorrelateSizes& s, T slope) : s_(s), slope_(slope), scores_(s.displacements()) {
    for (int d = 0; d < 3; ++d) cells_[d] = 2 * s.search_radius[d] + 1;
    plane_.resize(cells_[1] * cells_[2]);
  }

  T* scratch() { return scores_.data(); }

  // Of the similarities in scratch: writes the displacement, returns the logsumexp.
  T run(T* displacement) {
    const int64_t size = cells_[1] * cells_[2];
    for (T& t : scores_) t *= slope_;
    const T most = largest(scores_.data(), s_.displacements());
    std::fill(plane_.begin(), plane_.end(), T(0));
    double total = 0, moment[3] = {};
    for (int64_t i = 0; i < cells_[0]; ++i) {
      T *weights = scores_.data() + i * size, *plane = plane_.data();
      for (int64_t x = 0; x < size; ++x) {
        weights[x] = exp_nonpositive(weights[x] - most);
        plane[x] += weights[x];
      }
      const double of_plane = sum(weights, size);
      total += of_plane;
      moment[0] += of_plane * static_cast<double>(i - s_.search_radius[0]);
    }
    for (int64_t j = 0; j < cells_[1]; ++j)
      for (int64_t k = 0; k < cells_[2]; ++k) {
        const double weight = plane_[j * cells_[2] + k];
        moment[1] += weight * static_cast<double>(j - s_.search_radius[1]);
        moment[2] += weight * static_cast<double>(k - s_.search_radius[2]);
      }
    for (int d = 0; d < s_.dims; ++d) displacement[d] = static_cast<T>(static_cast<double>(s_.stride) * moment[d + 3 - s_.dims] / total);
    return most + static_cast<T>(std::log(total));
  }

 private:
  const CorrelateSizes& s_;
  T slope_;
  int64_t cells_[3];
  std::vector<T> scores_, plane_;
};

// The displacement of the largest of the scores (all displacements, first axis slowest).
template <class T>
void best_of(const CorrelateSizes& s, const T* scores, T* displacement) {
  constexpr int64_t kStep = 64;
  const int64_t n = s.displacements(), *r = s.search_radius, nj = 2 * r[1] + 1, nk = 2 * r[2] + 1;
  const T most = largest(scores, n);
  int64_t best[3] = {}, shortest = std::numeric_limits<int64_t>::max();
  for (int64_t x0 = 0; x0 < n; x0 += kStep) {
    const int64_t last = std::min(n, x0 + kStep);
    int hits = 0;
    for (int64_t x = x0; x < last; ++x) hits += scores[x] == most;
    if (!hits) continue;
    for (int64_t x = x0; x < last; ++x) {
      if (scores[x] != most) continue;
      const int64_t d[3] = {x / (nj * nk) - r[0], x / nk % nj - r[1], x % nk - r[2]}, length = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      if (length < shortest) {
        shortest = length;
        std::copy_n(d, 3, best);
      }
    }
  }
  for (int d = 0; d < s.dims; ++d) displacement[d] = most == most ? static_cast<T>(s.stride * best[d + 3 - s.dims]) : most;
}

}  // namespace

template <class Stored, class T>
void expected_displacement(const SearchCall<Stored>& call, T sharpness, T* out, T* logsumexp) {
  const CorrelateSizes& s = call.sizes;
  for_keypoints(call, kKeypointsPerJob, [&](Correlator<Stored>& correlator, const int64_t* keypoints, int64_t count) {
    Expectation<T> expectation(s, score_slope(s.metric, sharpness));
    for (int64_t item = 0; item < count; ++item) {
      const int64_t n = keypoints[item];
      correlator.run(n);
      correlator.write(expectation.scratch());
      logsumexp[n] = expectation.run(out + n * s.dims);
    }
  });
}

template <class Stored, class T>
void best_displacement(const SearchCall<Stored>& call, T* out) {
  const CorrelateSizes& s = call.sizes;
  const T slope = score_slope(s.metric, T(1));
  for_keypoints(call, kKeypointsPerJob, [&](Correlator<Stored>& correlator, const int64_t* keypoints, int64_t count) {
    std::vector<T> scores(s.displacements());
    for (int64_t item = 0; item < count; ++item) {
      correlator.run(keypoints[item]);
      correlator.write(scores.data());
      for (T& t : scores) t *= slope;
      best_of(s, scores.data(), out + keypoints[item] * s.dims);
    }
  });
}

template <class Stored, class T>
void expected_displacement_backward(const SearchCall<Stored>& call, T sharpness, const T* grad, const T* displacement, const T* logsumexp,
                                    T* grad_fixed, T* grad_moving) {
  const CorrelateSizes& s = call.sizes;
  const T slope = score_slope(s.metric, sharpness);
  SimilarityGradient<T> gradient;
  gradient.of_keypoint = [&](int64_t n, const T* similarities, T* out) {
    T g[3] = {}, expected = 0;
    for (int d = 0; d < s.dims; ++d) {
      g[d + 3 - s.dims] = static_cast<T>(s.stride) * grad[n * s.dims + d];
      expected += grad[n * s.dims + d] * displacement[n * s.dims + d];
    }
    const int64_t *r = s.search_radius, nk = 2 * r[2] + 1;
    for (int64_t i = -r[0]; i <= r[0]; ++i)
      for (int64_t j = -r[1]; j <= r[1]; ++j, similarities += nk, out += nk) {
        const T along = static_cast<T>(i) * g[0] + static_cast<T>(j) * g[1] - static_cast<T>(r[2]) * g[2] - expected;
        for (int64_t k = 0; k < nk; ++k)
          out[k] = expected_gradient(slope, similarities[k], logsumexp[n], along + static_cast<T>(k) * g[2]);
      }
  };
  search_backward(call, gradient, grad_fixed, grad_moving);
}

#define REGKIT_INSTANTIATE(S)                                                                                              \
  template void expected_displacement<S>(const SearchCall<S>&, arithmetic<S>, arithmetic<S>*, arithmetic<S>*);             \
  template void best_displacement<S>(const SearchCall<S>&, arithmetic<S>*);                                                \
  template void expected_displacement_backward<S>(const SearchCall<S>&, arithmetic<S>, const arithmetic<S>*,               \
                                                  const arithmetic<S>*, const arithmetic<S>*, arithmetic<S>*, arithmetic<S>*);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
