// Figures of the Jacobian determinant on the CPU. Bytes a voxel (3-D, float32): 12 read, 1 more with a mask; nothing but the figures is written.
//
// A row of determinants is made in L1 (jacobian_rows.h), the voxels of the mask are moved together, and what is left is reduced lane by lane. Sums
// within a row are in the working type, rows are merged in double, jobs in order: the figures do not depend on the threads.
#include "jacobian_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "core/moments.h"
#include "cpu/jacobian_rows.h"
#include "cpu/logarithm.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;
constexpr int64_t kOuter = 2;  // voxels on each side that Learn2Reg leaves out

template <class T>
inline Lanes<T> all(T value) {
  return Lanes<T>{} + value;
}

template <class T>
Lanes<T> lane_numbers() {
  Lanes<T> numbers;
  for (int l = 0; l < kLaneCount<T>; ++l) numbers[l] = static_cast<T>(l);
  return numbers;
}

// Calls f(k, here) for every vector of n values; here is 1 in the lanes below n, else 0.
template <class T, class Function>
inline void for_vectors(int64_t n, Function&& f) {
  const Lanes<T> numbers = lane_numbers<T>(), none = {}, one = all(T(1));
  for (int64_t k = 0; k < n; k += kLaneCount<T>) f(k, numbers < static_cast<T>(n - k) ? one : none);
}

// Moments of n values where weight(k, here) is 1; elsewhere it is 0, and the values are finite.
template <class T, class Weight>
inline Moments moments(const T* values, int64_t n, Weight&& weight) {
  Lanes<T> counts = {}, sums = {}, squares = {}, rests = {};
  for_vectors<T>(n, [&](int64_t k, Lanes<T> here) {
    const Lanes<T> w = weight(k, here);
    counts += w;
    sums += w * load_lanes(values + k);
  });
  const double count = sum_lanes<T>(counts);
  if (count == 0) return {};
  const T mean = sum_lanes<T>(sums) / static_cast<T>(count);
  for_vectors<T>(n, [&](int64_t k, Lanes<T> here) {
    const Lanes<T> difference = weight(k, here) * (load_lanes(values + k) - mean);
    rests += difference;  // what rounding left of the mean
    squares += difference * difference;
  });
  return {count, mean + static_cast<double>(sum_lanes<T>(rests)) / count, static_cast<double>(sum_lanes<T>(squares))};
}

template <class T>
struct Part {
  double count = 0, folds = 0, invalid = 0, sum = 0;
  T least = std::numeric_limits<T>::infinity(), most = -std::numeric_limits<T>::infinity();
  Moments logs = {}, shifted = {};

  // values: n determinants; logs_of: a buffer. Both can be read and written up to the end of a vector.
  void add(const T* values, int64_t n, T* logs_of) {
    Lanes<T> fold = {}, nan = {}, total = {}, low = all(least), high = all(most);
    const Lanes<T> none = {}, smallest = all(T(1e-9));
    for_vectors<T>(n, [&](int64_t k, Lanes<T> here) {
      const Lanes<T> v = load_lanes(values + k);
      fold += v <= 0 ? here : none;
      nan += v != v ? here : none;
      total += here > 0 ? v : none;
      low = (here > 0) & (v < low) ? v : low;
      high = (here > 0) & (v > high) ? v : high;
      store_lanes(logs_of + k, logarithm((here > 0) & (v > smallest) ? v : smallest));
    });
    count += static_cast<double>(n);
    folds += sum_lanes<T>(fold);
    invalid += sum_lanes<T>(nan);
    sum += sum_lanes<T>(total);
    for (int l = 0; l < kLaneCount<T>; ++l) least = std::min<T>(least, low[l]), most = std::max<T>(most, high[l]);
    logs = merged(logs, moments(logs_of, n, [&](int64_t k, Lanes<T> here) { return load_lanes(values + k) > 0 ? here : none; }));
  }

  void add_inner(const T* values, int64_t n, T* logs_of) {
    const Lanes<T> low = all(T(1e-9)), high = all(T(1e9)), none = {};
    for_vectors<T>(n, [&](int64_t k, Lanes<T> here) {
      const Lanes<T> x = here > 0 ? load_lanes(values + k) + 3 : high;
      store_lanes(logs_of + k, here > 0 ? logarithm(x < low ? low : x > high ? high : x) : none);
    });
    shifted = merged(shifted, moments(logs_of, n, [](int64_t, Lanes<T> here) { return here; }));
  }

  void add(const Part& other) {
    count += other.count, folds += other.folds, invalid += other.invalid, sum += other.sum;
    least = other.least < least ? other.least : least;
    most = other.most > most ? other.most : most;
    logs = merged(logs, other.logs), shifted = merged(shifted, other.shifted);
  }

  void write(double* figures) const {
    const double none = std::numeric_limits<double>::quiet_NaN();
    const auto deviation = [&](const Moments& m) { return m.count > 0 ? std::sqrt(m.m2 / m.count) : none; };
    const double values[kJacobianFigures] = {folds / count, count > 0 && invalid == 0 ? least : none, count > 0 && invalid == 0 ? most : none,
                                             sum / count, deviation(logs), deviation(shifted)};
    std::copy_n(values, kJacobianFigures, figures);
  }
};

inline bool is_inner(int64_t x, int64_t n) { return x >= kOuter && x < n - kOuter; }

// Moves the values of the mask to the front; how many there are.
template <class T>
int64_t keep(const uint8_t* mask, int64_t n, T* values) {
  int64_t kept = 0;
  for (int64_t k = 0; k < n; ++k) {
    values[kept] = values[k];
    kept += mask[k] != 0;
  }
  return kept;
}

// Rows [begin, end) of volume b.
template <int D, class T>
Part<T> part_of(const JacobianSummaryCall<T>& call, int64_t b, int64_t begin, int64_t end) {
  const JacobianSizes& s = call.sizes;
  const int64_t nk = s.size[2], ends = std::min(kOuter, nk);
  JacobianRows<D, T> rows(s);
  std::vector<T> row(nk + kLaneCount<T>), logs(nk + kLaneCount<T>);
  Part<T> part;
  for (int64_t r = begin; r < end; ++r) {
    const int64_t i = r / s.size[1], j = r % s.size[1];
    rows.determinant(call.u + b * D * s.voxels(), i, j, row.data());
    int64_t n = nk, first = ends, last = nk - ends;  // of the voxels that are kept, those of the inner part
    if (call.mask) {
      const uint8_t* mask = call.mask + b * s.voxels() + r * nk;
      n = keep(mask, nk, row.data());
      first = std::accumulate(mask, mask + ends, int64_t(0));
      last = n - std::accumulate(mask + nk - ends, mask + nk, int64_t(0));
    }
    part.add(row.data(), n, logs.data());
    if ((D == 2 || is_inner(i, s.size[0])) && is_inner(j, s.size[1]) && first < last) part.add_inner(row.data() + first, last - first, logs.data());
  }
  return part;
}

}  // namespace

template <class T>
void jacobian_summary(const JacobianSummaryCall<T>& call, int threads) {
  const JacobianSizes& s = call.sizes;
  const Chunks chunks{s.size[2] > 0 ? s.size[0] * s.size[1] : 0, kRowsPerJob};
  std::vector<Part<T>> parts(s.batch * chunks.count());
  parallel_for(s.batch * chunks.count(), threads, [&](int64_t job) {
    const int64_t b = job / chunks.count(), c = job % chunks.count();
    parts[job] = s.dims == 3 ? part_of<3>(call, b, chunks.begin(c), chunks.end(c)) : part_of<2>(call, b, chunks.begin(c), chunks.end(c));
  });
  for (int64_t b = 0; b < s.batch; ++b) {
    Part<T> whole;
    for (int64_t c = 0; c < chunks.count(); ++c) whole.add(parts[b * chunks.count() + c]);
    whole.write(call.figures + b * kJacobianFigures);
  }
}

template void jacobian_summary<float>(const JacobianSummaryCall<float>&, int);
template void jacobian_summary<double>(const JacobianSummaryCall<double>&, int);

}  // namespace regkit
