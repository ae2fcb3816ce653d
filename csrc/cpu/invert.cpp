// The inverse of a displacement by fixed-point iteration. The iteration of a voxel reads only u, so that all rounds of a block of voxels run while they
// are in registers: bytes a voxel (3-D, float32) 12 (u) + 12 (v), once, however many rounds; and a block is left as soon as its voxels have settled.
#include <cmath>

#include "cpu/field_block.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 16;

template <int D, class Index, class T>
void invert_rows(const T* u, T* v, const FieldSizes& s, int iterations, T tolerance, int64_t begin, int64_t end) {
  const Extent<D> e(s.field);
  const Runs<D> runs(e);
  const int64_t nk = e.n[D - 1], voxels = e.voxels();
  Samples<D, Index, T> samples;
  alignas(64) T found[D][kLanes] = {}, c[D][kLanes], value[kLanes * D + 1], next[D][kLanes];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / e.rows(), row = r % e.rows();
    const T* volume = u + b * voxels * D;
    int64_t at[D];
    e.row(row, at);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t voxel = row * nk + k0;
      PackedField<D, const T>{u, voxels}.read_rows(b, voxel, lanes, found);
      for (int d = 0; d < D; ++d)
        for (int l = 0; l < kLanes; ++l) found[d][l] = -found[d][l];
      int32_t moving[kLanes];
      for (int l = 0; l < kLanes; ++l) moving[l] = l < lanes;
      for (int round = 0; round < iterations; ++round) {
        std::copy_n(found[0], D * kLanes, c[0]);
        add_positions(c, at, k0);
        locate(samples, c, e, runs, (s.batch - b) * voxels);
        sample(samples, volume, e, runs, kLanes, value);
        deinterleave<D, T>(value, next[0], kLanes, kLanes);
        T change[kLanes] = {}, unknown[kLanes] = {};
        for (int d = 0; d < D; ++d)
          for (int l = 0; l < kLanes; ++l) {
            const T by = std::abs(next[d][l] + found[d][l]);
            change[l] = by > change[l] ? by : change[l];
            unknown[l] += by - by;  // NaN from a NaN, which ends a voxel
            found[d][l] = moving[l] ? -next[d][l] : found[d][l];
          }
        int32_t any = 0;
        for (int l = 0; l < kLanes; ++l) {
          moving[l] &= change[l] > tolerance && unknown[l] == 0;
          any |= moving[l];
        }
        if (!any) break;
      }
      for (int d = 0; d < D; ++d)
        for (int l = 0; l < lanes; ++l) v[(b * D + d) * voxels + voxel + l] = found[d][l];
    }
  }
}

}  // namespace

template <class T>
void field_invert(const T* u, T* v, const FieldSizes& s, int iterations, T tolerance, int threads) {
  advise_large_pages(v, s.batch * s.dims * s.field_voxels());
  specialise_field(s, [&](auto D, auto index) {
    const Chunks chunks{s.batch * Extent<D>(s.field).rows(), kRowsPerJob};
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      invert_rows<D, decltype(index)>(u, v, s, iterations, tolerance, chunks.begin(job), chunks.end(job));
    });
  });
}

template void field_invert<float>(const float*, float*, const FieldSizes&, int, float, int);
template void field_invert<double>(const double*, double*, const FieldSizes&, int, double, int);

}  // namespace regkit
