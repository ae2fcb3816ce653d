// d sum(grad * image(x + u(x))) / d image on a GPU: a scatter. Formulas: core/warp.h.
//
// Bytes a voxel in 3-D, float32, C channels: u 12 and gradient 4C in, 4C of sums out, and 4C for the zeros that they begin from. What binds is
// the additions: one atomic for each of 8 cells, C times. So a block adds what its tile of voxels scatters in shared memory first, where they come
// together, and flushes each cell once: about 1.5 additions a voxel to global memory. Shared memory adds whole numbers natively, floats by a loop
// of compare and swap: the tile holds fixed-point numbers, 20 bits below the largest gradient in the block, which no order of additions changes.
// The box of cells follows the displacement in the middle of the tile, kMargin cells beyond it on all sides; what falls outside (or is no number)
// goes to global memory directly. In float64 all does.
#include "cuda/cells.h"
#include "cuda/largest.h"
#include "cuda/warp.h"

namespace regkit::cuda {
namespace {

constexpr int kThreads = 256, kMargin = 4, kFraction = 20;  // bits; a tile has 2^10 voxels, and a sign

template <int D>
struct Scattered {
  static constexpr int kPlanes = D == 3 ? 4 : 1, kDown = D == 3 ? 8 : 32, kAcross = kWarpSize;  // voxels of a block
  static constexpr int kEach = kPlanes * kDown * kAcross / kThreads;                            // of a thread
  static constexpr int kBoxI = D == 3 ? kPlanes + 2 * kMargin + 1 : 1, kBoxJ = kDown + 2 * kMargin + 1, kBoxK = kAcross + 2 * kMargin + 1;
  static constexpr int kBox = kBoxI * kBoxJ * kBoxK;  // cells
};
static_assert(Scattered<2>::kEach == 4 && Scattered<3>::kEach == 4);

// The sums: of type T, or whole numbers of units.
template <class T, bool fixed>
struct Sums {
  T* real;
  int64_t* whole;
  double per_unit;

  // value: of type T or, where T would round it, double.
  template <class V>
  __device__ __forceinline__ void add(int64_t at, V value) const {
    if constexpr (fixed) atomicAdd(reinterpret_cast<unsigned long long*>(whole + at), static_cast<unsigned long long>(static_cast<long long>(floor(value * per_unit + 0.5))));
    else atomicAdd(real + at, static_cast<T>(value));
  }
};

template <int D, Padding padding, bool fixed, class Stored, class T = arithmetic<Stored>>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 2) scatter(const Stored* __restrict__ grad, const T* __restrict__ u, T* __restrict__ real, int64_t* __restrict__ whole, const double* __restrict__ unit, const float* __restrict__ bound, int channels, Extent m, Extent n) {
  using Of = Scattered<D>;
  if (bound && *bound <= 1) return;
  constexpr bool shared = sizeof(T) == 4;
  __shared__ int box[shared ? Of::kBox : 1];
  __shared__ float largest_of[kThreads];
  const int across = ceil_div(n.nk, Of::kAcross), down = ceil_div(n.nj, Of::kDown), deep = ceil_div(n.ni, Of::kPlanes);
  const int block = blockIdx.x, thread = threadIdx.x, b = block / across / down / deep;
  const int i0 = block / across / down % deep * Of::kPlanes, j0 = block / across % down * Of::kDown, k = block % across * Of::kAcross + thread % kWarpSize;
  const int64_t voxels = n.voxels(), cells = m.voxels();
  u += static_cast<int64_t>(b) * D * voxels;
  grad += static_cast<int64_t>(b) * channels * voxels;
  Sums<T, fixed> sums{real, whole, fixed ? 1 / *unit : 1.0};
  int64_t target = static_cast<int64_t>(b) * channels * cells;

  // The voxel that is a thread's `each`-th.
  const auto plane_of = [&](int each) { return i0 + (D == 3 ? each : 0); };
  const auto row_of = [&](int each) { return j0 + thread / kWarpSize + (D == 3 ? 0 : each * (kThreads / kWarpSize)); };

  // Where the box begins.
  int bi = 0, bj = 0, bk = 0;
  if constexpr (shared) {
    const int mi = min(i0 + Of::kPlanes / 2, n.ni - 1), mj = min(j0 + Of::kDown / 2, n.nj - 1), mk = min(block % across * Of::kAcross + Of::kAcross / 2, n.nk - 1);
    T c[3];
    displaced<D>(u, n.row(mi, mj) + mk, voxels, 0, 0, 0, c);
    const auto begin = [](T moved, int at) { return at - kMargin + static_cast<int>(moved > T(-1e6) ? (moved < T(1e6) ? floor(moved) : T(1e6)) : T(-1e6)); };
    bi = D == 3 ? begin(c[0], i0) : 0;
    bj = begin(c[1], j0);
    bk = begin(c[2], block % across * Of::kAcross);
  }

  for (int channel = 0; channel < channels; ++channel, grad += voxels, target += cells) {
    float largest = 0, scale = 1;  // of the block's finite gradients; units of one
    if constexpr (shared) {
      float top = 0;
#pragma unroll
      for (int each = 0; each < Of::kEach; ++each) {
        const int i = plane_of(each), j = row_of(each);
        const float size = i < n.ni && j < n.nj && k < n.nk ? fabsf(load(grad[n.row(i, j) + k])) : 0.0f;
        top = size > top && size <= 3e38f ? size : top;
      }
      for (int cell = thread; cell < Of::kBox; cell += kThreads) box[cell] = 0;
      largest = largest_of_block(top, largest_of);
      scale = units_of_one(largest, kFraction);
    }
#pragma unroll 1
    for (int each = 0; each < Of::kEach; ++each) {
      const int i = plane_of(each), j = row_of(each);
      if (i >= n.ni || j >= n.nj || k >= n.nk) continue;
      T c[3];
      displaced<D>(u, n.row(i, j) + k, voxels, i, j, k, c);
      const Cells<D, padding, T> around(c, m);
      const T g = load(grad[n.row(i, j) + k]);  // from L1, where finding the largest has left it
#pragma unroll
      for (int corner = 0; corner < (D == 3 ? 8 : 4); ++corner) {
        const bool up_i = corner & 4, up_j = corner & 2, up_k = corner & 1;
        T value = g * (up_j ? around.j.weight_high : around.j.weight_low) * (up_k ? around.k.weight_high : around.k.weight_low);
        if constexpr (D == 3) value *= up_i ? around.i.weight_high : around.i.weight_low;
        if (value == 0) continue;
        const int cj = up_j ? around.j.high : around.j.low, ck = up_k ? around.k.high : around.k.low, ci = D == 3 ? (up_i ? around.i.high : around.i.low) : 0;
        if constexpr (shared) {
          const int pi = ci - bi, pj = cj - bj, pk = ck - bk;
          const bool held = pi >= 0 && pi < Of::kBoxI && pj >= 0 && pj < Of::kBoxJ && pk >= 0 && pk < Of::kBoxK;
          if (held && fabsf(value) <= largest) {  // not of a gradient that is infinite, nor NaN
            atomicAdd(&box[(pi * Of::kBoxJ + pj) * Of::kBoxK + pk], __float2int_rn(value * scale));
            continue;
          }
        }
        sums.add(target + around.rows[corner / 2] + ck, value);
      }
    }
    if constexpr (shared) {
      __syncthreads();
      const double back = 1.0 / scale;
      for (int cell = thread; cell < Of::kBox; cell += kThreads) {
        if (box[cell] == 0) continue;
        const int ck = bk + cell % Of::kBoxK, cj = bj + cell / Of::kBoxK % Of::kBoxJ, ci = bi + cell / (Of::kBoxK * Of::kBoxJ);
        sums.add(target + m.row(ci, cj) + ck, back * box[cell]);
      }
      __syncthreads();
    }
  }
}

template <int D>
int64_t blocks(const WarpSizes& s) {
  using Of = Scattered<D>;
  return s.batch * ceil_div<int64_t>(s.output[0], Of::kPlanes) * ceil_div<int64_t>(s.output[1], Of::kDown) * ceil_div<int64_t>(s.output[2], Of::kAcross);
}

}  // namespace

template <class Stored, class T>
void warp_grad_image(const Stored* grad, const T* u, T* out, const WarpSizes& s, int padding, const float* bound, Stream stream) {
  for_axes_and_padding(s.dims, padding, [&](auto dims, auto pad) {
    launch(scatter<dims.value, static_cast<Padding>(pad.value), false, Stored>, blocks<dims.value>(s), dim3(kThreads), 0, stream,
           grad, u, out, nullptr, nullptr, bound, s.channels, extent(s.image), extent(s.output));
  });
}

template <class Stored, class T>
void warp_grad_image_fixed(const Stored* grad, const T* u, const double* unit, int64_t* out, const WarpSizes& s, int padding, Stream stream) {
  for_axes_and_padding(s.dims, padding, [&](auto dims, auto pad) {
    launch(scatter<dims.value, static_cast<Padding>(pad.value), true, Stored>, blocks<dims.value>(s), dim3(kThreads), 0, stream,
           grad, u, nullptr, out, unit, nullptr, s.channels, extent(s.image), extent(s.output));
  });
}

#define REGKIT_INSTANTIATE(S)                                                                                              \
  template void warp_grad_image<S>(const S*, const arithmetic<S>*, arithmetic<S>*, const WarpSizes&, int, const float*, Stream); \
  template void warp_grad_image_fixed<S>(const S*, const arithmetic<S>*, const double*, int64_t*, const WarpSizes&, int, Stream);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
REGKIT_INSTANTIATE(float16)
REGKIT_INSTANTIATE(bfloat16)

}  // namespace regkit::cuda
