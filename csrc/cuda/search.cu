// The similarity map of keypoints on a GPU, its soft-min and its best displacement.
//
// A block has one keypoint. Of C channels of s bytes, C s bytes are gathered for each displacement and patch sample, mostly from L1 and L2; memory
// sees the features, the map where it is wanted, and else D + 1 numbers a keypoint. An online soft-max, or the best so far, is kept by each thread
// and combined once, in a fixed order.
#include "cuda/similarities.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr float kLowest = -3.0e38f;  // below all scores but -infinity, from which no NaN comes by subtraction

// Calls found(displacement number, values of a run, how many of them are in the cube, their di, dj, dk from the corner) for all runs of a thread.
template <Metric metric, class F>
__device__ __forceinline__ void for_runs(const Search& s, const void* fixed, const void* moving, StoredAs stored, F&& found) {
  float4* patch = dynamic_shared<float4>();
  const int64_t point = blockIdx.x;
  load_patch(s, fixed, stored, point, patch, threadIdx.x, kThreads);
  __syncthreads();
  const float norm = metric == Metric::cosine ? patch_norm(patch, s.samples() * s.groups, threadIdx.x % kWarpSize) : 0.0f;
  const Voxel y = position(s.centers, point, s.dims);
  const int across = ceil_div(s.side, kRun), runs = s.side_i * across * s.side;
  as_stored(moving, stored, [&](auto* features) {
    features += point / s.points * s.groups * s.moving.voxels() * 4;
    for (int run = threadIdx.x; run < runs; run += kThreads) {
      const int dk = run % s.side, dj = run / s.side % across * kRun, di = run / s.side / across;
      float values[kRun];
      similarities<metric, kRun>(s, features, y, patch, norm, di, dj, dk, values);
      found((di * s.side + dj) * s.side + dk, values, min(kRun, s.side - dj), di, dj, dk);
    }
  });
}

template <Metric metric>
__global__ void __launch_bounds__(kThreads, 3) map(Search s, const void* __restrict__ fixed, const void* __restrict__ moving, StoredAs stored, void* __restrict__ out, StoredAs as) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * s.displacements();
  for_runs<metric>(s, fixed, moving, stored, [&](int number, const float(&values)[kRun], int count, int, int, int) {
#pragma unroll
    for (int each = 0; each < kRun; ++each)
      if (each < count) put(out, as, first + number + each * s.side, values[each]);
  });
}

// Sums of a soft-max: weights exp(score - largest), and weighted displacements in steps from the corner of the cube.
struct Softmax {
  float largest = kLowest, total = 0.0f, i = 0.0f, j = 0.0f, k = 0.0f;

  __device__ __forceinline__ void rescale(float to) {
    const float shrink = expf(largest - to);
    largest = to;
    total *= shrink, i *= shrink, j *= shrink, k *= shrink;
  }
  __device__ __forceinline__ void add(Softmax other) {
    const float highest = fmaxf(largest, other.largest);
    rescale(highest);
    other.rescale(highest);
    total += other.total, i += other.i, j += other.j, k += other.k;
  }
  __device__ __forceinline__ Softmax from_lane(int apart) const {
    Softmax other;
    other.largest = __shfl_xor_sync(0xffffffffu, largest, apart), other.total = __shfl_xor_sync(0xffffffffu, total, apart);
    other.i = __shfl_xor_sync(0xffffffffu, i, apart), other.j = __shfl_xor_sync(0xffffffffu, j, apart), other.k = __shfl_xor_sync(0xffffffffu, k, apart);
    return other;
  }
};

// Of equal costs the least key wins: the squared length of the displacement first, its number next. NaN wins over all, with key -1.
struct Best {
  float cost;
  int64_t key;

  __device__ __forceinline__ void add(const Best& other) {
    if (other.cost < cost || (other.cost == cost && other.key < key)) *this = other;
  }
  __device__ __forceinline__ Best from_lane(int apart) const { return {__shfl_xor_sync(0xffffffffu, cost, apart), __shfl_xor_sync(0xffffffffu, key, apart)}; }
};

// What all threads have, combined in a fixed order; thread 0 gets it.
template <class Kept>
__device__ __forceinline__ void combine(Kept& kept, Kept (&warps)[kWarps]) {
  for (int apart = 1; apart < kWarpSize; apart *= 2) kept.add(kept.from_lane(apart));
  if (threadIdx.x % kWarpSize == 0) warps[threadIdx.x / kWarpSize] = kept;
  __syncthreads();
  if (threadIdx.x == 0)
    for (int warp = 1; warp < kWarps; ++warp) kept.add(warps[warp]);
}

__device__ __forceinline__ void put_displacement(float* out, const Search& s, float i, float j, float k) {
  float* at = out + static_cast<int64_t>(blockIdx.x) * s.dims;
  const float stride = static_cast<float>(s.stride);
  if (s.dims == 3) at[0] = (i - s.radius_i()) * stride;
  at[s.dims - 2] = (j - s.radius()) * stride;
  at[s.dims - 1] = (k - s.radius()) * stride;
}

template <Metric metric>
__global__ void __launch_bounds__(kThreads, 3) expected(Search s, const void* __restrict__ fixed, const void* __restrict__ moving, StoredAs stored, float slope, float* __restrict__ displacement, float* __restrict__ logsumexp) {
  __shared__ Softmax warps[kWarps];
  Softmax sums;
  for_runs<metric>(s, fixed, moving, stored, [&](int, const float(&values)[kRun], int count, int di, int dj, int dk) {
    float highest = sums.largest;
#pragma unroll
    for (int each = 0; each < kRun; ++each)
      if (each < count) highest = fmaxf(highest, slope * values[each]);
    sums.rescale(highest);
#pragma unroll
    for (int each = 0; each < kRun; ++each) {
      if (each >= count) break;
      const float weight = expf(slope * values[each] - highest);
      sums.total += weight;
      sums.i += weight * di, sums.j += weight * (dj + each), sums.k += weight * dk;
    }
  });
  combine(sums, warps);
  if (threadIdx.x) return;
  put_displacement(displacement, s, sums.i / sums.total, sums.j / sums.total, sums.k / sums.total);
  logsumexp[blockIdx.x] = sums.largest + logf(sums.total);
}

template <Metric metric>
__global__ void __launch_bounds__(kThreads, 3) best(Search s, const void* __restrict__ fixed, const void* __restrict__ moving, StoredAs stored, float* __restrict__ displacement) {
  __shared__ Best warps[kWarps];
  const float infinity = __int_as_float(0x7f800000);
  const int all = s.displacements(), radius_i = s.radius_i(), radius = s.radius();
  Best least{infinity, INT64_MAX};
  for_runs<metric>(s, fixed, moving, stored, [&](int number, const float(&values)[kRun], int count, int di, int dj, int dk) {
#pragma unroll
    for (int each = 0; each < kRun; ++each) {
      if (each >= count) break;
      const float cost = metric == Metric::ssd ? values[each] : -values[each];
      const int64_t i = di - radius_i, j = dj + each - radius, k = dk - radius;
      const bool known = cost == cost;
      least.add({known ? cost : -infinity, known ? (i * i + j * j + k * k) * all + number + each * s.side : -1});
    }
  });
  combine(least, warps);
  if (threadIdx.x) return;
  const int number = static_cast<int>(least.key < 0 ? 0 : least.key % all);
  const float nan = least.key < 0 ? __int_as_float(0x7fc00000) : 0.0f;
  put_displacement(displacement, s, number / (s.side * s.side) + nan, number / s.side % s.side + nan, number % s.side + nan);
}

size_t patch_bytes(const Search& s) { return sizeof(float4) * s.samples() * s.groups; }

}  // namespace

void search_map(const SearchCall& c, void* out, StoredAs as, Stream stream) {
  const Search s(c);
  for_metric(c.metric, [&](auto metric) {
    launch(map<metric.value>, c.batch * c.points, dim3(kThreads), patch_bytes(s), stream, s, c.fixed, c.moving, c.stored, out, as);
  });
}

void search_expected(const SearchCall& c, float sharpness, float* displacement, float* logsumexp, Stream stream) {
  const Search s(c);
  const float slope = c.metric == Metric::ssd ? -sharpness : sharpness;
  for_metric(c.metric, [&](auto metric) {
    launch(expected<metric.value>, c.batch * c.points, dim3(kThreads), patch_bytes(s), stream, s, c.fixed, c.moving, c.stored, slope, displacement, logsumexp);
  });
}

void search_best(const SearchCall& c, float* displacement, Stream stream) {
  const Search s(c);
  for_metric(c.metric, [&](auto metric) {
    launch(best<metric.value>, c.batch * c.points, dim3(kThreads), patch_bytes(s), stream, s, c.fixed, c.moving, c.stored, displacement);
  });
}

}  // namespace regkit::cuda
