// Linear resampling on the CPU. Bytes a fine value (float32): 4 written forward, 4 read backward; the coarse field is small beside it.
//
// The interpolation is separable, and each axis is done where there is least of it. Forward: coarse rows are stretched along k (the only
// step that gathers), pairs of them blended along j into a tile of a coarse plane, pairs of tiles blended along i into the output: two
// contiguous blends a fine value.
// The adjoint runs backwards: fine planes are added into two tiles of accumulators, one for each coarse plane they touch; a tile that is
// complete is summed along j and then along k. It gathers over the fine samples of each coarse one, so no two threads write to one value
// and sums have a fixed order.
// A job is a tile of rows and a chunk of planes of one channel; tiles are small enough for L2.
#include "upsample.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/upsample.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kTileRows = 48, kChunkPlanes = 24;  // of the fine grid, about

// What each fine index along an axis reads, and from where on fine indices reach a coarse one.
template <class T>
struct Axis {
  std::vector<int32_t> low, high;
  std::vector<T> fraction;
  std::vector<int64_t> first;  // first[c]: the first fine index with low >= c

  Axis(int64_t coarse, int64_t fine, double factor, double offset) : low(fine), high(fine), fraction(fine), first(coarse + 2, fine) {
    for (int64_t x = 0; x < fine; ++x) {
      const UpsampleTap tap = upsample_tap(x, coarse, factor, offset);
      low[x] = tap.low;
      high[x] = tap.high;
      fraction[x] = static_cast<T>(tap.fraction);
    }
    for (int64_t x = 0, c = 0; c < coarse; ++c) {
      while (x < fine && low[x] < c) ++x;
      first[c] = x;
    }
  }
  // Fine indices [begin(c), end(c)) have coarse index c as low or high.
  int64_t begin(int64_t c) const { return c > 0 ? first[c - 1] : 0; }
  int64_t end(int64_t c) const { return first[c + 1]; }
  T weight(int64_t x, int64_t c) const { return low[x] == c ? 1 - fraction[x] : fraction[x]; }
};

// The adjoint along k as lanes: tap t of coarse index c reads fine index source[t * n + c] with a weight, 0 where c has fewer taps.
template <class T>
struct Taps {
  int64_t coarse, count = 0;
  std::vector<int32_t> source;
  std::vector<T> weight;

  explicit Taps(const Axis<T>& axis) : coarse(static_cast<int64_t>(axis.first.size()) - 2) {
    for (int64_t c = 0; c < coarse; ++c) count = std::max(count, axis.end(c) - axis.begin(c));
    source.assign(count * coarse, 0);
    weight.assign(count * coarse, T(0));
    for (int64_t c = 0; c < coarse; ++c)
      for (int64_t x = axis.begin(c); x < axis.end(c); ++x) {
        source[(x - axis.begin(c)) * coarse + c] = static_cast<int32_t>(x);
        weight[(x - axis.begin(c)) * coarse + c] = axis.weight(x, c);
      }
  }
};

template <class T>
inline void blend(const T* __restrict low, const T* __restrict high, T fraction, T* __restrict out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] = low[k] + fraction * (high[k] - low[k]);
}

// The adjoint of blend.
template <class T>
inline void accumulate(const T* __restrict in, T fraction, T* __restrict low, T* __restrict high, int64_t n) {
  for (int64_t k = 0; k < n; ++k) {
    low[k] += (1 - fraction) * in[k];
    high[k] += fraction * in[k];
  }
}

template <class T>
inline void accumulate(const T* __restrict in, T weight, T* __restrict out, int64_t n) {
  for (int64_t k = 0; k < n; ++k) out[k] += weight * in[k];
}

// Two buffers that hold the samples `low` and `high` of a march along an axis; a sample that is already there is not made again.
template <class T>
class Pair {
 public:
  explicit Pair(int64_t size) : a_(size), b_(size) {}

  template <class Make>
  std::pair<const T*, const T*> at(int64_t low, int64_t high, Make&& make) {
    if (index_a_ != low) {
      if (index_b_ == low) {
        std::swap(a_, b_);
        std::swap(index_a_, index_b_);
      } else {
        make(low, a_.data());
        index_a_ = low;
      }
    }
    if (high == low) return {a_.data(), a_.data()};
    if (index_b_ != high) {
      make(high, b_.data());
      index_b_ = high;
    }
    return {a_.data(), b_.data()};
  }
  void forget() { index_a_ = index_b_ = -1; }

 private:
  std::vector<T> a_, b_;
  int64_t index_a_ = -1, index_b_ = -1;
};

template <class T>
struct Axes {
  Axis<T> i, j, k;
  explicit Axes(const UpsampleCall<T>& c)
      : i(c.coarse[0], c.fine[0], c.factor[0], c.offset[0]),
        j(c.coarse[1], c.fine[1], c.factor[1], c.offset[1]),
        k(c.coarse[2], c.fine[2], c.factor[2], c.offset[2]) {}
};

template <class T>
void forward_tile(const UpsampleCall<T>& call, const Axes<T>& axes, int64_t volume, int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
  const int64_t nk = call.fine[2], rows = j1 - j0;
  const T* in = call.in + volume * call.coarse[0] * call.coarse[1] * call.coarse[2];
  T* out = call.out + volume * call.fine[0] * call.fine[1] * nk;
  const T scale = call.scale[volume % call.channels];
  Pair<T> stretched(nk), tiles(rows * nk);
  const auto stretch = [&](const T* __restrict row, T* __restrict target) {
    const int32_t *low = axes.k.low.data(), *high = axes.k.high.data();
    const T* fraction = axes.k.fraction.data();
    for (int64_t k = 0; k < nk; ++k) target[k] = scale * (row[low[k]] + fraction[k] * (row[high[k]] - row[low[k]]));
  };
  const auto make_tile = [&](int64_t plane, T* tile) {
    stretched.forget();
    for (int64_t j = j0; j < j1; ++j) {
      const auto [low, high] = stretched.at(axes.j.low[j], axes.j.high[j], [&](int64_t row, T* target) {
        stretch(in + (plane * call.coarse[1] + row) * call.coarse[2], target);
      });
      blend(low, high, axes.j.fraction[j], tile + (j - j0) * nk, nk);
    }
  };
  for (int64_t i = i0; i < i1; ++i) {
    const auto [low, high] = tiles.at(axes.i.low[i], axes.i.high[i], make_tile);
    blend(low, high, axes.i.fraction[i], out + (i * call.fine[1] + j0) * nk, rows * nk);
  }
}

// Coarse planes [c0, c1) and rows [r0, r1).
template <class T>
void adjoint_tile(const UpsampleCall<T>& call, const Axes<T>& axes, const Taps<T>& taps, int64_t volume, int64_t c0, int64_t c1, int64_t r0,
                  int64_t r1) {
  const int64_t nk = call.fine[2], j0 = axes.j.begin(r0), j1 = axes.j.end(r1 - 1), size = (j1 - j0) * nk, coarse_k = call.coarse[2];
  const T* in = call.in + volume * call.fine[0] * call.fine[1] * nk + j0 * nk;
  T* out = call.out + volume * call.coarse[0] * call.coarse[1] * coarse_k;
  const T scale = call.scale[volume % call.channels];
  std::vector<T> low(size), high(size), row(nk);
  const auto finish = [&](int64_t plane, const T* tile) {
    for (int64_t r = r0; r < r1; ++r) {
      std::fill(row.begin(), row.end(), T(0));
      for (int64_t j = axes.j.begin(r); j < axes.j.end(r); ++j) accumulate(tile + (j - j0) * nk, axes.j.weight(j, r), row.data(), nk);
      T* __restrict target = out + (plane * call.coarse[1] + r) * coarse_k;
      std::fill_n(target, coarse_k, T(0));
      for (int64_t t = 0; t < taps.count; ++t) {
        const int32_t* source = taps.source.data() + t * coarse_k;
        const T *weight = taps.weight.data() + t * coarse_k, *values = row.data();
        for (int64_t k = 0; k < coarse_k; ++k) target[k] += scale * weight[k] * values[source[k]];
      }
    }
  };
  // The coarse plane that `low` belongs to; `high` belongs to the next. Tiles of planes outside [c0, c1) are dropped.
  int64_t plane = c0 - 1;
  const auto advance = [&] {
    if (plane >= c0) finish(plane, low.data());
    std::swap(low, high);
    std::fill(high.begin(), high.end(), T(0));
    ++plane;
  };
  for (int64_t i = axes.i.begin(c0); i < axes.i.end(c1 - 1); ++i) {
    while (plane < axes.i.low[i]) advance();
    accumulate(in + i * call.fine[1] * nk, axes.i.fraction[i], low.data(), high.data(), size);
  }
  while (plane < c1) advance();
}

}  // namespace

template <class T>
void upsample(const UpsampleCall<T>& call, int threads) {
  const Axes<T> axes(call);
  advise_large_pages(call.out, call.batch * call.channels * call.fine[0] * call.fine[1] * call.fine[2]);
  const Chunks planes{call.fine[0], kChunkPlanes}, rows{call.fine[1], kTileRows};
  const int64_t tiles = call.fine[2] > 0 ? planes.count() * rows.count() : 0;
  parallel_for(call.batch * call.channels * tiles, threads, [&](int64_t job) {
    const int64_t p = job % tiles / rows.count(), r = job % rows.count();
    forward_tile(call, axes, job / tiles, planes.begin(p), planes.end(p), rows.begin(r), rows.end(r));
  });
}

template <class T>
void upsample_adjoint(const UpsampleCall<T>& call, int threads) {
  const Axes<T> axes(call);
  const Taps<T> taps(axes.k);
  advise_large_pages(call.out, call.batch * call.channels * call.coarse[0] * call.coarse[1] * call.coarse[2]);
  // Tiles of at least four coarse rows and planes: the fine samples between two tiles are read by both.
  const auto coarse_grain = [](int64_t grain, double factor) {
    return std::max<int64_t>(4, std::lround(std::fmin(static_cast<double>(grain) / factor, 1e6)));
  };
  const Chunks planes{call.coarse[0], coarse_grain(kChunkPlanes, call.factor[0])};
  const Chunks rows{call.coarse[1], coarse_grain(kTileRows, call.factor[1])};
  const int64_t tiles = planes.count() * rows.count();
  parallel_for(call.batch * call.channels * tiles, threads, [&](int64_t job) {
    const int64_t p = job % tiles / rows.count(), r = job % rows.count();
    adjoint_tile(call, axes, taps, job / tiles, planes.begin(p), planes.end(p), rows.begin(r), rows.end(r));
  });
}

#define REGKIT_INSTANTIATE(T)                              \
  template void upsample<T>(const UpsampleCall<T>&, int);  \
  template void upsample_adjoint<T>(const UpsampleCall<T>&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
