// MIND-SSC on the CPU. Bytes a voxel (3-D): 4 + 4 read, 12 channels written. Two sweeps: the first only adds up the mean of V, the second
// computes all again and writes the descriptors: reading and differencing the image twice costs less than storing twelve channels in
// between.
#include "cpu/mind.h"

#include "cpu/exponential.h"
#include "cpu/mind_rows.h"
#include "cpu/mind_variance.h"
#include "cpu/pages.h"

namespace regkit {

template <class Stored>
void mind_ssc(const arithmetic<Stored>* image, Stored* out, const MindSizes& s, int threads) {
  using T = arithmetic<Stored>;
  const int64_t nk = s.size[2];
  if (s.batch * s.voxels() == 0) return;
  const MindPairs pairs(s.dims);
  const MindTiles tiles(s);
  const std::vector<T> means = mean_variances(image, s, pairs, threads);
  advise_large_pages(out, s.batch * pairs.channels * s.voxels());
  specialised(s, [&](auto channels, auto radius) {
    constexpr int C = decltype(channels)::value, Radius = decltype(radius)::value;
    parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
      const int64_t b = job / tiles.count();
      const MindBounds<T> bounds(means[b], box_voxels<T>(s));
      ScratchRows<Stored> descriptors(C, nk + kInterleaved);
      RowWriter<C, Stored> writer(s);
      const bool spoilt = means[b] != means[b];  // by a NaN: all descriptors are NaN, which needs no arithmetic
      for (int c = 0; spoilt && c < C; ++c) std::fill_n(descriptors.row(c), nk, store<Stored>(means[b]));
      tiles.sweep(s, pairs, image + b * s.voxels(), job % tiles.count()).run([&](int64_t i, int64_t j, const ScratchRows<T>& boxes) {
        for (int64_t k = 0; !spoilt && k < nk; k += kLaneCount<T>) {
          Lanes<T> q[C];
          const Lanes<T> scale = T(-1.4426950408889634) / bounds.clamp(distances<C, Radius>(boxes, k, s.radius, q));  // e^x = 2^(x / ln 2)
          for (int c = 0; c < C; ++c) store_stored(descriptors.row(c) + k, exp2_nonpositive(q[c] * scale));
        }
        writer.write(descriptors, (i * s.size[1] + j) * nk, out + b * C * s.voxels());
      });
    });
  });
}

template void mind_ssc(const float*, float*, const MindSizes&, int);
template void mind_ssc(const double*, double*, const MindSizes&, int);
template void mind_ssc(const float*, float16*, const MindSizes&, int);
template void mind_ssc(const float*, bfloat16*, const MindSizes&, int);

}  // namespace regkit
