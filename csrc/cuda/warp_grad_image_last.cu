// d sum(grad * image(x + u(x))) / d image on a GPU, of an image whose channels lie side by side (channels last) and come in fours.
//
// Bytes a voxel in 3-D, float32, C channels: u 12 and gradient 4C in, 4C of sums out, and 4C for the zeros that they begin from. What binds is
// the additions to global memory: 8 cells a voxel. Four channels of a cell are one of them here, of 16 bytes (red.v4.f32 from sm_90 on; four of 4
// bytes before). A thread takes four channels of kMarch voxels down a column along j, and keeps what a voxel adds to the cells of its row j + 1
// until the next voxel, which mostly reaches the same cells: 4.5 additions a voxel and four channels are left. Down j and not along k, so that a
// warp's lanes, channels first, then voxels along k, read and add next to each other. No shared memory, no barriers.
// The sums depend on the order of additions; whole numbers (deterministic mode) are warp_grad_image.cu's.
#include "cuda/cells.h"
#include "cuda/warp.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = 128, kMarch = 8;

__device__ __forceinline__ void add_four(float4* at, const float4& value) {
#if defined(REGKIT_EMULATE_CUDA) || __CUDA_ARCH__ >= 900
  atomicAdd(at, value);
#else
  atomicAdd(&at->x, value.x);
  atomicAdd(&at->y, value.y);
  atomicAdd(&at->z, value.z);
  atomicAdd(&at->w, value.w);
#endif
}

__device__ __forceinline__ float4 times(float w, const float4& g) { return make_float4(w * g.x, w * g.y, w * g.z, w * g.w); }

// by_voxel, by_channel: the gradient's strides. groups: of four channels. out: in fours.
template <int D, Padding padding, class Stored>
__global__ void __launch_bounds__(kThreads, 6) scatter_last(const Stored* __restrict__ grad, int64_t by_voxel, int64_t by_channel, const float* __restrict__ u, float4* __restrict__ out, int groups, Extent m, Extent n) {
  constexpr int kSides = D == 3 ? 4 : 2;  // cells around a sample in one row j: along i (slower) and k
  const int pieces = ceil_div(n.nk * groups, kThreads), strips = ceil_div(n.nj, kMarch), block = blockIdx.x;
  const int item = block % pieces * kThreads + static_cast<int>(threadIdx.x);
  if (item >= n.nk * groups) return;
  const int k = item / groups, group = item % groups;
  const int j0 = block / pieces % strips * kMarch, i = block / pieces / strips % n.ni;
  const int64_t b = block / pieces / strips / n.ni, voxels = n.voxels();
  u += b * D * voxels;
  grad += b * 4 * groups * voxels + 4 * group * by_channel;
  out += b * groups * m.voxels() + group;

  // What the voxel before has for the cells around it in its row j + 1, and which row and cells these are.
  float4 kept[kSides];
#pragma unroll
  for (int side = 0; side < kSides; ++side) kept[side] = make_float4(0, 0, 0, 0);
  int row = 0, low_i = 0, high_i = 0, low_k = 0, high_k = 0;
  // Zeros are not added: samples outside the image all have the same cells, at its edge.
  const auto add = [&](int64_t at, const float4& value) {
    if (value.x != 0 || value.y != 0 || value.z != 0 || value.w != 0) add_four(out + at * groups, value);
  };
  const auto add_kept = [&] {
#pragma unroll
    for (int side = 0; side < kSides; ++side) add(m.row(side & 2 ? high_i : low_i, row) + (side & 1 ? high_k : low_k), kept[side]);
  };

#pragma unroll 1
  for (int j = j0; j < j0 + kMarch && j < n.nj; ++j) {
    const int64_t at = n.row(i, j) + k;
    float c[3];
    displaced<D>(u, at, voxels, i, j, k, c);
    const Cells<D, padding, float> around(c, m);
    const Stored* from = grad + at * by_voxel;
    const float4 g = make_float4(load(from[0]), load(from[by_channel]), load(from[2 * by_channel]), load(from[3 * by_channel]));
    const bool same = around.j.low == row && around.k.low == low_k && around.k.high == high_k && (D == 2 || (around.i.low == low_i && around.i.high == high_i));
    if (!same) add_kept();
#pragma unroll
    for (int side = 0; side < kSides; ++side) {
      const bool up_i = side & 2, up_k = side & 1;
      float weight = up_k ? around.k.weight_high : around.k.weight_low;
      if constexpr (D == 3) weight *= up_i ? around.i.weight_high : around.i.weight_low;
      float4 value = times(weight * around.j.weight_low, g);
      if (same) value = make_float4(value.x + kept[side].x, value.y + kept[side].y, value.z + kept[side].z, value.w + kept[side].w);
      add(around.rows[up_i ? 2 : 0] + (up_k ? around.k.high : around.k.low), value);
      kept[side] = times(weight * around.j.weight_high, g);
    }
    row = around.j.high, low_k = around.k.low, high_k = around.k.high;
    if constexpr (D == 3) low_i = around.i.low, high_i = around.i.high;
  }
  add_kept();
}

}  // namespace

template <class Stored>
void warp_grad_image_last(const Stored* grad, bool grad_last, const float* u, float* out, const WarpSizes& s, int padding, Stream stream) {
  if (s.channels % 4) throw std::runtime_error("channels come in fours here, not " + std::to_string(s.channels));
  const int64_t groups = s.channels / 4, voxels = s.output[0] * s.output[1] * s.output[2];
  const int64_t blocks = s.batch * s.output[0] * ceil_div<int64_t>(s.output[1], kMarch) * ceil_div<int64_t>(s.output[2] * groups, kThreads);
  for_axes_and_padding(s.dims, padding, [&](auto dims, auto pad) {
    launch(scatter_last<dims.value, static_cast<Padding>(pad.value), Stored>, blocks, dim3(kThreads), 0, stream,
           grad, grad_last ? s.channels : 1, grad_last ? 1 : voxels, u, reinterpret_cast<float4*>(out), groups, extent(s.image), extent(s.output));
  });
}

#define REGKIT_INSTANTIATE(S) template void warp_grad_image_last<S>(const S*, bool, const float*, float*, const WarpSizes&, int, Stream);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(float16)
REGKIT_INSTANTIATE(bfloat16)

}  // namespace regkit::cuda
