// out(x) = image(x + u(x)) on a GPU, its derivative by u, and nearest neighbours. Formulas: core/warp.h.
//
// Bytes a voxel in 3-D, float32, C channels: forward 12 + 8C (u, image, out), by u 24 + 8C (u, gradient, image, out). The identity grid is
// implicit; neighbouring samples share their cells in L1. Threads go through all channels, so that positions and weights are computed once.
// Halves are storage only: positions, weights and sums are float32.
#include "cuda/warp.h"

#include "cuda/cells.h"
#include "cuda/tiles.h"

namespace regkit::cuda {
namespace {

template <int D, Padding padding, class Stored, class T = arithmetic<Stored>>
__global__ void __launch_bounds__(kWarpSize* kRows, sizeof(T) == 4 ? 3 : 2) forward(const Stored* __restrict__ image, const T* __restrict__ u, Stored* __restrict__ out, int channels, Extent m, Extent n, T fill) {
  const Tile t = tile_here(n);
  if (t.j >= n.nj) return;
  const int64_t voxels = n.voxels(), cells = m.voxels(), row = n.row(t.i, t.j);
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
    const int k = t.k + strip * kWarpSize;
    if (k >= n.nk) return;
    T c[3];
    displaced<D>(u, static_cast<int64_t>(t.b) * D * voxels + row + k, voxels, t.i, t.j, k, c);
    const Cells<D, padding, T> around(c, m);
    const Stored* source = image + static_cast<int64_t>(t.b) * channels * cells;
    Stored* target = out + static_cast<int64_t>(t.b) * channels * voxels + row + k;
    for (int channel = 0; channel < channels; ++channel, source += cells, target += voxels) {
      *target = store<Stored>(around.value(around.read(source, fill)) + fill);
    }
  }
}

template <int D, Padding padding, class Stored, class T = arithmetic<Stored>>
__global__ void __launch_bounds__(kWarpSize* kRows, sizeof(T) == 4 ? 3 : 2) grad_displacement(const Stored* __restrict__ grad, const Stored* __restrict__ image, const T* __restrict__ u, T* __restrict__ out, int channels, Extent m, Extent n, T fill) {
  const Tile t = tile_here(n);
  if (t.j >= n.nj) return;
  const int64_t voxels = n.voxels(), cells = m.voxels(), row = n.row(t.i, t.j);
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
    const int k = t.k + strip * kWarpSize;
    if (k >= n.nk) return;
    const int64_t at = static_cast<int64_t>(t.b) * D * voxels + row + k;
    T c[3], by[D] = {};
    displaced<D>(u, at, voxels, t.i, t.j, k, c);
    const Cells<D, padding, T> around(c, m);
    const Stored* source = image + static_cast<int64_t>(t.b) * channels * cells;
    const Stored* incoming = grad + static_cast<int64_t>(t.b) * channels * voxels + row + k;
    for (int channel = 0; channel < channels; ++channel, source += cells, incoming += voxels) {
      around.add_slopes(around.read(source, fill), load(*incoming), by);
    }
#pragma unroll
    for (int d = 0; d < D; ++d) out[at + d * voxels] = by[d];
  }
}

// Of what is chosen at run time here nothing is in the loop over channels: one kernel for each width of the elements.
template <class Element>
__global__ void __launch_bounds__(kWarpSize* kRows) nearest(const Element* __restrict__ image, const float* __restrict__ u, Element* __restrict__ out, const Element* __restrict__ fill, int channels, Extent m, Extent n, int dims, bool border) {
  const Tile t = tile_here(n);
  if (t.j >= n.nj) return;
  const int64_t voxels = n.voxels(), cells = m.voxels(), row = n.row(t.i, t.j);
  const auto cell = [&](float c, int size) { return border ? axis_nearest<Padding::border>(c, size) : axis_nearest<Padding::zeros>(c, size); };
  const Element outside = *fill;
#pragma unroll
  for (int strip = 0; strip < kStrips; ++strip) {
    const int k = t.k + strip * kWarpSize;
    if (k >= n.nk) return;
    const float* moves = u + static_cast<int64_t>(t.b) * dims * voxels + row + k;
    const int ci = dims == 3 ? cell(static_cast<float>(t.i) + moves[0], m.ni) : 0;
    const int cj = cell(static_cast<float>(t.j) + moves[(dims - 2) * voxels], m.nj), ck = cell(static_cast<float>(k) + moves[(dims - 1) * voxels], m.nk);
    const bool covered = ci >= 0 && cj >= 0 && ck >= 0;
    const Element* source = image + static_cast<int64_t>(t.b) * channels * cells + (covered ? m.row(ci, cj) + ck : 0);
    Element* target = out + static_cast<int64_t>(t.b) * channels * voxels + row + k;
    for (int channel = 0; channel < channels; ++channel, source += cells, target += voxels) *target = covered ? *source : outside;
  }
}

}  // namespace

template <class Stored, class T>
void warp_linear(const Stored* image, const T* u, Stored* out, const WarpSizes& s, int padding, double fill, Stream stream) {
  for_axes_and_padding(s.dims, padding, [&](auto dims, auto pad) {
    launch(forward<dims.value, static_cast<Padding>(pad.value), Stored>, tiles(s.batch, s.output), dim3(kWarpSize, kRows), 0, stream,
           image, u, out, s.channels, extent(s.image), extent(s.output), fill);
  });
}

template <class Stored, class T>
void warp_grad_displacement(const Stored* grad, const Stored* image, const T* u, T* out, const WarpSizes& s, int padding, double fill, Stream stream) {
  for_axes_and_padding(s.dims, padding, [&](auto dims, auto pad) {
    launch(grad_displacement<dims.value, static_cast<Padding>(pad.value), Stored>, tiles(s.batch, s.output), dim3(kWarpSize, kRows), 0, stream,
           grad, image, u, out, s.channels, extent(s.image), extent(s.output), fill);
  });
}

template <class Element>
void warp_nearest(const Element* image, const float* u, Element* out, const WarpSizes& s, int padding, const Element* fill, Stream stream) {
  launch(nearest<Element>, tiles(s.batch, s.output), dim3(kWarpSize, kRows), 0, stream,
         image, u, out, fill, s.channels, extent(s.image), extent(s.output), s.dims, padding == static_cast<int>(Padding::border));
}

#define REGKIT_INSTANTIATE(S)                                                                                                       \
  template void warp_linear<S>(const S*, const arithmetic<S>*, S*, const WarpSizes&, int, double, Stream);                          \
  template void warp_grad_displacement<S>(const S*, const S*, const arithmetic<S>*, arithmetic<S>*, const WarpSizes&, int, double, Stream);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
REGKIT_INSTANTIATE(float16)
REGKIT_INSTANTIATE(bfloat16)
#define REGKIT_INSTANTIATE_NEAREST(E) template void warp_nearest<E>(const E*, const float*, E*, const WarpSizes&, int, const E*, Stream);
REGKIT_INSTANTIATE_NEAREST(uint8_t)
REGKIT_INSTANTIATE_NEAREST(uint16_t)
REGKIT_INSTANTIATE_NEAREST(uint32_t)
REGKIT_INSTANTIATE_NEAREST(uint64_t)

}  // namespace regkit::cuda
