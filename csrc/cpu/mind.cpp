// MIND-SSC on the CPU. Bytes a voxel (float32, 3-D): 4 + 4 read, 48 written. Two sweeps: the first only adds up the mean of V, the second
// computes all again and writes the descriptors: reading and differencing the image twice costs less than storing twelve channels in
// between.
#include "cpu/mind.h"

#include "cpu/mind_sweep.h"

namespace regkit {

template <class Stored>
void mind_ssc(const arithmetic<Stored>* image, Stored* out, const MindSizes& s, int threads) {
  using T = arithmetic<Stored>;
  const int64_t voxels = s.size[0] * s.size[1] * s.size[2], nk = s.size[2];
  if (s.batch * voxels == 0) return;
  const MindPairs pairs(s.dims);
  const MindTiles tiles(s, pairs.channels);
  const std::vector<T> means = mean_variances(image, s, pairs, threads);
  parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
    const int64_t b = job / tiles.count(), p = job % tiles.count() / tiles.rows.count(), r = job % tiles.rows.count();
    const MindBounds<T> bounds(means[b]);
    std::vector<T> minimum(nk), variance(nk);
    MindSweep<T>(s, pairs, image + b * voxels, tiles.planes.begin(p), tiles.planes.end(p), tiles.rows.begin(r), tiles.rows.end(r))
        .run([&](int64_t i, int64_t j, T* distances) {
          subtract_minimum(distances, minimum.data(), variance.data(), pairs.channels, nk);
          for (int64_t k = 0; k < nk; ++k) variance[k] = -1 / bounds.clamp(variance[k]);
          for (int c = 0; c < pairs.channels; ++c) {
            const T* q = distances + c * nk;
            Stored* target = out + (b * pairs.channels + c) * voxels + (i * s.size[1] + j) * nk;
            for (int64_t k = 0; k < nk; ++k) target[k] = store<Stored>(exp_nonpositive(q[k] * variance[k]));
          }
        });
  });
}

#define REGKIT_INSTANTIATE(S) template void mind_ssc<S>(const arithmetic<S>*, S*, const MindSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
REGKIT_INSTANTIATE(float16)
REGKIT_INSTANTIATE(bfloat16)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
