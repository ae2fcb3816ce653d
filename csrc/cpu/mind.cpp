// MIND-SSC on the CPU. Bytes a voxel (3-D): 4 + 4 read, 12 channels written, or their share of a pooled voxel. Two sweeps: the first only
// adds up the mean of V, the second computes all again and writes the descriptors: reading and differencing the image twice costs less
// than storing twelve channels in between.
#include "cpu/mind.h"

#include "cpu/convert.h"
#include "cpu/exponential.h"
#include "cpu/mind_rows.h"
#include "cpu/mind_variance.h"
#include "cpu/pages.h"

namespace regkit {
namespace {

// Adds up rows of descriptors over blocks of pool x pool x pool voxels (2-D: pool x pool) of one tile.
template <int C, class T>
class Pool {
 public:
  Pool(const MindSizes& s, int64_t rows)
      : s_(s), rows_(rows), sums_(C * (s.pool == 1 ? 0 : (rows + s.pool - 1) / s.pool), s.size[2] + kLaneCount<T>) {}

  bool begins(int64_t i, int64_t j) const { return i % s_.pool_of(0) == 0 && j % s_.pool == 0; }
  bool ends(int64_t i, int64_t j) const { return (i + 1) % s_.pool_of(0) == 0 && (j + 1) % s_.pool == 0; }
  T* row(int64_t j, int c) { return sums_.row(j % rows_ / s_.pool * C + c); }

  // The means of the blocks that end at row (i, j), into n elements of each row.
  template <class Stored>
  void means(int64_t j, int64_t n, ScratchRows<Stored>& means) {
    const T share = T(1) / static_cast<T>(s_.pool_of(0) * s_.pool * s_.pool);
    for (int c = 0; c < C; ++c) {
      const T* source = row(j, c);
      for (int64_t k = 0; k < n; ++k, source += s_.pool) {
        T sum = 0;
        for (int64_t o = 0; o < s_.pool; ++o) sum += source[o];
        means.row(c)[k] = store<Stored>(share * sum);
      }
    }
  }

 private:
  const MindSizes& s_;
  int64_t rows_;
  ScratchRows<T> sums_;
};

}  // namespace

template <class Stored>
void mind_ssc(const arithmetic<Stored>* image, Stored* out, const MindSizes& s, int threads) {
  using T = arithmetic<Stored>;
  const MindSizes pooled = s.pooled();
  const int64_t nk = s.size[2];
  if (s.batch * pooled.voxels() == 0) return;
  const MindPairs pairs(s.dims);
  const MindTiles tiles(s);
  const std::vector<T> means = mean_variances(image, s, pairs, threads);
  advise_large_pages(out, s.batch * pairs.channels * pooled.voxels());
  specialised(s, [&](auto channels, auto radius) {
    constexpr int C = decltype(channels)::value, Radius = decltype(radius)::value;
    parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
      const int64_t b = job / tiles.count();
      const MindBounds<T> bounds(means[b], box_voxels<T>(s));
      ScratchRows<Stored> descriptors(C, nk + kInterleaved);
      RowWriter<C, Stored> writer(pooled);
      Pool<C, T> pool(s, tiles.rows.grain);
      const bool spoilt = means[b] != means[b];  // by a NaN: all descriptors are NaN, which needs no arithmetic
      for (int c = 0; spoilt && c < C; ++c) std::fill_n(descriptors.row(c), nk, store<Stored>(means[b]));
      tiles.sweep(s, pairs, image + b * s.voxels(), job % tiles.count()).run([&](int64_t i, int64_t j, const ScratchRows<T>& boxes) {
        const bool begins = pool.begins(i, j);
        for (int64_t k = 0; !spoilt && k < nk; k += kLaneCount<T>) {
          Lanes<T> q[C];
          const Lanes<T> scale = T(-1.4426950408889634) / bounds.clamp(distances<C, Radius>(boxes, k, s.radius, q));  // e^x = 2^(x / ln 2)
          for (int c = 0; c < C; ++c) q[c] = exp2_nonpositive(q[c] * scale);
          if (s.pool == 1) {
            for (int c = 0; c < C; ++c) store_from_lanes(descriptors.row(c) + k, q[c]);
          } else {
            for (int c = 0; c < C; ++c) {
              T* sum = pool.row(j, c) + k;
              store_lanes(sum, begins ? q[c] : load_lanes(sum) + q[c]);
            }
          }
        }
        const int64_t pi = i / s.pool_of(0), pj = j / s.pool;
        if (!pool.ends(i, j)) return;
        if (s.pool > 1 && !spoilt) pool.means(j, pooled.size[2], descriptors);
        writer.write(descriptors, (pi * pooled.size[1] + pj) * pooled.size[2], out + b * C * pooled.voxels());
      });
    });
  });
}

template void mind_ssc(const float*, float*, const MindSizes&, int);
template void mind_ssc(const double*, double*, const MindSizes&, int);
template void mind_ssc(const float*, float16*, const MindSizes&, int);
template void mind_ssc(const float*, bfloat16*, const MindSizes&, int);

}  // namespace regkit
