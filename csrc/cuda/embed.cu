// Similarity maps times a basis on a GPU, without the maps.
//
// A block has 32 keypoints, a share of the cube and 64 or 256 columns. It computes the similarities of 64 displacements at a time into shared memory,
// and each warp multiplies them with its columns of the basis by tensor cores (tensor_cores.h). The basis comes from L2, once for 32 keypoints:
// 4 columns bytes a displacement and block. Memory sees features, basis and result. Shares are summed by the caller.
#include "cuda/similarities.h"
#include "cuda/tensor_cores.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize;
constexpr int kPoints = 32, kChunk = 64, kPitch = kChunk + 4;  // the pitch leaves no two lanes of a load in one bank
constexpr int kColumns = 8;                                   // of a product

// kProducts: side by side in a warp, which has 8 kProducts columns.
template <Metric metric, int kProducts>
__global__ void __launch_bounds__(kThreads, 2) embed(Search s, const void* __restrict__ fixed, const void* __restrict__ moving, StoredAs stored, const float* __restrict__ basis, int columns, int64_t count, int shares, float* __restrict__ out) {
  __shared__ float scores[kPoints * kPitch];
  __shared__ float norms[kPoints];
  float4* patches = dynamic_shared<float4>();
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize, size = s.samples() * s.groups;
  const int column_blocks = ceil_div(columns, kWarps * kColumns * kProducts);
  const int share = blockIdx.x / column_blocks % shares;
  const int64_t first = static_cast<int64_t>(blockIdx.x) / column_blocks / shares * kPoints;
  const int column0 = (static_cast<int>(blockIdx.x) % column_blocks * kWarps + warp) * kColumns * kProducts;
  for (int p = warp; p < kPoints; p += kWarps) {
    if (first + p >= count) break;
    float4* patch = patches + p * size;
    load_patch(s, fixed, stored, first + p, patch, lane, kWarpSize);
    __syncwarp();
    if constexpr (metric == Metric::cosine) {
      const float norm = patch_norm(patch, size, lane);
      if (lane == 0) norms[p] = norm;
    }
  }
  float sums[kPoints / 16][kProducts][4] = {};
  const int all = s.displacements(), each = ceil_div(ceil_div(all, shares), kChunk) * kChunk, last = min(all, (share + 1) * each);
  const int g = lane / 4, t = lane % 4;
  for (int d0 = share * each; d0 < last; d0 += kChunk) {
    __syncthreads();
    as_stored(moving, stored, [&](auto* features) {
      for (int n = threadIdx.x; n < kPoints * kChunk; n += kThreads) {
        const int p = n / kChunk, d = d0 + n % kChunk;
        float value[1] = {0.0f};
        if (d < last && first + p < count) {
          const int64_t image = (first + p) / s.points * s.groups * s.moving.voxels() * 4;
          similarities<metric, 1>(s, features + image, position(s.centers, first + p, s.dims), patches + p * size, metric == Metric::cosine ? norms[p] : 0.0f,
                                  d / (s.side * s.side), d / s.side % s.side, d % s.side, value);
        }
        scores[p * kPitch + n % kChunk] = value[0];
      }
    });
    __syncthreads();
    for (int k0 = 0; k0 < kChunk && d0 + k0 < last; k0 += 8) {
      SplitA a[kPoints / 16];
#pragma unroll
      for (int m = 0; m < kPoints / 16; ++m)
#pragma unroll
        for (int n = 0; n < 4; ++n) a[m].set(n, scores[(m * 16 + g + n % 2 * 8) * kPitch + k0 + t + n / 2 * 4]);
#pragma unroll
      for (int c = 0; c < kProducts; ++c) {
        SplitB b;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          const int d = d0 + k0 + t + n * 4, column = column0 + c * kColumns + g;
          b.set(n, d < last && column < columns ? __ldg(basis + static_cast<int64_t>(d) * columns + column) : 0.0f);
        }
#pragma unroll
        for (int m = 0; m < kPoints / 16; ++m) multiply_add(sums[m][c], a[m], b);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kPoints / 16; ++m)
#pragma unroll
    for (int c = 0; c < kProducts; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int64_t point = first + m * 16 + g + n / 2 * 8;
        const int column = column0 + c * kColumns + 2 * t + n % 2;
        if (point < count && column < columns) out[(share * count + point) * columns + column] = sums[m][c][n];
      }
}

}  // namespace

void search_embed(const SearchCall& c, const float* basis, int64_t columns, int64_t shares, float* out, Stream stream) {
  const Search s(c);
  const int64_t count = c.batch * c.points, blocks = ceil_div<int64_t>(count, kPoints) * shares;
  const size_t bytes = sizeof(float4) * s.samples() * s.groups * kPoints;
  for_metric(c.metric, [&](auto metric) {
    choose(columns > kWarps * kColumns ? 4 : 1, std::integer_sequence<int, 1, 4>(), [&](auto products) {
      const int64_t across = ceil_div<int64_t>(columns, kWarps * kColumns * products.value);
      launch(embed<metric.value, products.value>, blocks * across, dim3(kThreads), bytes, stream, s, c.fixed, c.moving, c.stored, basis, static_cast<int>(columns), count, static_cast<int>(shares), out);
    });
  });
}

}  // namespace regkit::cuda
