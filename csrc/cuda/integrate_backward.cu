// A step of scaling and squaring backwards, on a GPU. With g the gradient by u' = u o u,
//   du(x) = g(x) + (grad u(x + u(x)))^T g(x) + sum over y of g(y) times the weight that the sample y + u(y) gives to the cell x.
//
// Bytes a voxel in 3-D: 12 (u) + 12 (g) + 12 (out). The sum is a scatter of 24 additions a voxel; but while no component of u exceeds a voxel, only
// the 27 voxels around x reach it. So a block makes its own tile of cells from the voxels in the tile and one around it (1.7 times as many), and
// adds in shared memory: whole numbers, which it adds natively, 26 bits below the largest gradient in sight, which leaves room for 27 of them. No
// global atomics, no zeros to begin with, the same bits in any order. Displacements of more than a voxel scatter through global memory
// (warp_grad_image); which it is, `largest` decides on the device.
#include "cuda/cells.h"
#include "cuda/integrate.h"
#include "cuda/largest.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = 256, kFraction = 26;

template <int D>
struct Gathered {
  static constexpr int kNi = D == 3 ? 8 : 1, kNj = D == 3 ? 8 : 32, kNk = 32, kCells = kNi * kNj * kNk;  // of the tile
  static constexpr int kHaloI = D == 3 ? kNi + 2 : 1, kHaloJ = kNj + 2, kHaloK = kNk + 2, kVoxels = kHaloI * kHaloJ * kHaloK;
};

struct Voxel {
  int i, j, k;
  REGKIT_INLINE bool in(const Extent& n) const { return i >= 0 && i < n.ni && j >= 0 && j < n.nj && k >= 0 && k < n.nk; }
};

template <int D>
__global__ void __launch_bounds__(kThreads, 4) step_backward(const float* __restrict__ grad, const float* __restrict__ u, const float* __restrict__ bound, float scale, const float* __restrict__ scattered, float* __restrict__ out, Extent n) {
  using Of = Gathered<D>;
  __shared__ int sums[D * Of::kCells];  // or floats, where a gradient is infinite or NaN
  __shared__ float largest_of[kThreads];
  const int across = ceil_div(n.nk, Of::kNk), down = ceil_div(n.nj, Of::kNj), deep = ceil_div(n.ni, Of::kNi);
  const int block = blockIdx.x, thread = threadIdx.x;
  const int i0 = block / across / down % deep * Of::kNi, j0 = block / across % down * Of::kNj, k0 = block % across * Of::kNk;
  const int64_t voxels = n.voxels(), volume = static_cast<int64_t>(block / across / down / deep) * D * voxels;
  u += volume;
  grad += volume;
  out += volume;
  const bool near = *bound <= 1;
  float back = 0;  // one unit of the sums
  bool finite = true;

  if (near) {
    // The `at`-th voxel of the tile and one around it.
    const auto source = [&](int at) {
      return Voxel{D == 3 ? i0 - 1 + at / (Of::kHaloK * Of::kHaloJ) : 0, j0 - 1 + at / Of::kHaloK % Of::kHaloJ, k0 - 1 + at % Of::kHaloK};
    };
    float top = 0;
    for (int at = thread; at < Of::kVoxels; at += kThreads) {
      const Voxel y = source(at);
      if (!y.in(n)) continue;
#pragma unroll
      for (int d = 0; d < D; ++d) {
        const float size = fabsf(grad[d * voxels + n.row(y.i, y.j) + y.k]);
        top = size <= top ? top : size;  // NaN stays
        if (!(top <= 3e38f)) break;
      }
      if (!(top <= 3e38f)) break;
    }
    for (int cell = thread; cell < D * Of::kCells; cell += kThreads) sums[cell] = 0;
    const float largest = largest_of_block(top, largest_of);
    finite = largest <= 3e38f;
    const float unit = units_of_one(finite ? largest : 0.0f, kFraction);
    back = 1.0f / unit;
#pragma unroll 1
    for (int at = thread; at < Of::kVoxels; at += kThreads) {
      const Voxel y = source(at);
      if (!y.in(n)) continue;
      const int64_t offset = n.row(y.i, y.j) + y.k;
      float c[3], g[D];
      displaced<D>(u, offset, voxels, y.i, y.j, y.k, c);
      const Cells<D, Padding::border, float> around(c, n);
#pragma unroll
      for (int d = 0; d < D; ++d) g[d] = grad[d * voxels + offset];
#pragma unroll
      for (int corner = 0; corner < (D == 3 ? 8 : 4); ++corner) {
        const bool up_i = corner & 4, up_j = corner & 2, up_k = corner & 1;
        float weight = (up_j ? around.j.weight_high : around.j.weight_low) * (up_k ? around.k.weight_high : around.k.weight_low);
        if constexpr (D == 3) weight *= up_i ? around.i.weight_high : around.i.weight_low;
        const int ci = D == 3 ? (up_i ? around.i.high : around.i.low) - i0 : 0;
        const int cj = (up_j ? around.j.high : around.j.low) - j0, ck = (up_k ? around.k.high : around.k.low) - k0;
        if (weight == 0 || ci < 0 || ci >= Of::kNi || cj < 0 || cj >= Of::kNj || ck < 0 || ck >= Of::kNk) continue;
        int* cell = sums + (ci * Of::kNj + cj) * Of::kNk + ck;
#pragma unroll
        for (int d = 0; d < D; ++d, cell += Of::kCells) {
          if (finite) atomicAdd(cell, __float2int_rn(weight * g[d] * unit));
          else atomicAdd(reinterpret_cast<float*>(cell), weight * g[d]);
        }
      }
    }
    __syncthreads();
  }

  for (int cell = thread; cell < Of::kCells; cell += kThreads) {
    const Voxel x{D == 3 ? i0 + cell / (Of::kNk * Of::kNj) : 0, j0 + cell / Of::kNk % Of::kNj, k0 + cell % Of::kNk};
    if (!x.in(n)) continue;
    const int64_t at = n.row(x.i, x.j) + x.k;
    float c[3], by[D] = {};
    displaced<D>(u, at, voxels, x.i, x.j, x.k, c);
    const Cells<D, Padding::border, float> around(c, n);
#pragma unroll
    for (int d = 0; d < D; ++d) around.add_slopes(around.read(u + d * voxels, 0.0f), grad[d * voxels + at], by);
#pragma unroll
    for (int d = 0; d < D; ++d) {
      const int sum = near ? sums[d * Of::kCells + cell] : 0;
      const float reached = near ? (finite ? back * static_cast<float>(sum) : __int_as_float(sum)) : scattered[volume + d * voxels + at];
      out[d * voxels + at] = scale * (grad[d * voxels + at] + by[d] + reached);
    }
  }
}

__global__ void __launch_bounds__(kThreads) clear(const float* __restrict__ bound, float* __restrict__ scattered, int64_t count) {
  if (*bound <= 1) return;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; at < count; at += static_cast<int64_t>(gridDim.x) * kThreads) scattered[at] = 0;
}

}  // namespace

void integrate_step_backward(const float* grad, const float* u, const float* largest, float scale, const float* scattered, float* out, const FieldSizes& s, Stream stream) {
  choose(s.dims, std::integer_sequence<int, 2, 3>(), [&](auto dims) {
    using Of = Gathered<dims.value>;
    const int64_t blocks = s.batch * ceil_div<int64_t>(s.size[0], Of::kNi) * ceil_div<int64_t>(s.size[1], Of::kNj) * ceil_div<int64_t>(s.size[2], Of::kNk);
    launch(step_backward<dims.value>, blocks, dim3(kThreads), 0, stream, grad, u, largest, scale, scattered, out, extent(s.size));
  });
}

void integrate_clear(const float* largest, float* scattered, const FieldSizes& s, Stream stream) {
  const int64_t count = s.batch * s.dims * s.size[0] * s.size[1] * s.size[2];
  launch(clear, count == 0 ? 0 : kResidentBlocks, dim3(kThreads), 0, stream, largest, scattered, count);
}

}  // namespace regkit::cuda
