// Sum of squares of fixed - warp(moving, displacement) in one pass on the CPU. Bytes a voxel (3-D, C channels of s bytes): displacement 12, fixed s C,
// moving s C (gathered, cached), gradient 12; warp, difference and the gradients of both move 24 + 24 C of float32.
//
// Blocks of kLanes voxels as in warp.cpp: cells are located once, then each channel's value and slope come from the same eight cells.
#include "warp_ssd.h"

#include <algorithm>
#include <vector>

#include "cpu/convert.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "cpu/warp_block.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;

template <class T, class Stored>
void load_block(const Stored* source, int lanes, T* block) {
  if (lanes == kLanes) {
    for (int l = 0; l < kLanes; l += kLaneCount<T>) store_lanes(block + l, load_as_lanes(source + l));
  } else {
    for (int l = 0; l < kLanes; ++l) block[l] = l < lanes ? load(source[l]) : T(0);
  }
}

template <bool want_gradient, class Index, int D, class Stored, class T = arithmetic<Stored>>
double rows(const WarpSsdCall<Stored>& call, int64_t begin, int64_t end) {
  const WarpSizes& s = call.sizes;
  const int64_t voxels = s.output_voxels(), image_voxels = s.image_voxels(), nk = s.output[2];
  WarpBlock<D, Index, T> block(s, call.padding);
  double total = 0;
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(s, r);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t at = row.offset + k0;
      block.locate(call.displacement + row.b * D * voxels, row, k0, lanes);
      alignas(64) T squares[kLanes] = {}, by[D][kLanes] = {}, weight[kLanes];
      for (int64_t c = 0; c < s.channels; ++c) {
        alignas(64) T f[kLanes], value[kLanes], slope[D][kLanes];
        load_block(call.fixed + (row.b * s.channels + c) * voxels + at, lanes, f);
        block.template sample<true, want_gradient>(call.moving + (row.b * s.channels + c) * image_voxels, call.fill, value, slope);
        for (int l = 0; l < kLanes; ++l) {
          const T difference = value[l] - f[l];
          squares[l] += difference * difference;
          if constexpr (want_gradient) for (int d = 0; d < D; ++d) by[d][l] += difference * slope[d][l];
        }
      }
      if (call.weight) load_block(call.weight + row.b * voxels + at, lanes, weight);
      else std::fill_n(weight, kLanes, T(1));
      T sum = 0;
      for (int l = 0; l < lanes; ++l) sum += weight[l] * squares[l];
      total += sum;
      if constexpr (want_gradient) {
        for (int d = 0; d < D; ++d) {
          T* target = call.gradient + (row.b * D + d) * voxels + at;
          for (int l = 0; l < lanes; ++l) target[l] = 2 * call.scale * weight[l] * by[d][l];
        }
      }
    }
  }
  return total;
}

}  // namespace

template <class Stored>
void warp_ssd(const WarpSsdCall<Stored>& call, int threads) {
  const WarpSizes& s = call.sizes;
  if (call.gradient) advise_large_pages(call.gradient, s.batch * s.dims * s.output_voxels());
  const Chunks chunks{s.batch * s.output[0] * s.output[1], kRowsPerJob};
  std::vector<double> totals(chunks.count());
  for_dims_and_index(s, [&](auto dims, auto index) {
    using Index = decltype(index);
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      totals[job] = call.gradient ? rows<true, Index, dims.value>(call, chunks.begin(job), chunks.end(job))
                                  : rows<false, Index, dims.value>(call, chunks.begin(job), chunks.end(job));
    });
  });
  *call.total = 0;
  for (double total : totals) *call.total += total;
}

template void warp_ssd<float>(const WarpSsdCall<float>&, int);
template void warp_ssd<double>(const WarpSsdCall<double>&, int);
template void warp_ssd<float16>(const WarpSsdCall<float16>&, int);
template void warp_ssd<bfloat16>(const WarpSsdCall<bfloat16>&, int);

}  // namespace regkit
