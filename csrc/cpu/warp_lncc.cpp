// lncc(fixed, warp(moving, displacement)) in one sweep on the CPU. Bytes a voxel (3-D, float32, one channel): displacement 12, fixed 4, moving 4
// (gathered, cached), gradient 12: 32, where the two ops move 96.
//
// The plane sweep of lncc_sweep.h, whose second image is made as its planes enter the window. Rows of it live in a ring of as many planes as the
// window has (and one), and so do the slopes, its derivatives by the displacement: value and slope come from the same eight cells, which are
// fetched once. When the sweep gives the gradient by a warped row, half a window later, the slopes turn it into that by the displacement.
// Channels of one image share the displacement: a job takes them one after the other and adds up their gradients in that order.
#include "warp_lncc.h"

#include "cpu/lncc_sweep.h"
#include "cpu/pages.h"
#include "cpu/volume_shift.h"
#include "cpu/warp_block.h"

namespace regkit {
namespace {

// One channel of the fixed image, and of the warped one as far as the window reaches. Rows come by a virtual call (Warped), so that the sweep is
// compiled once for all ways to warp.
template <class T>
class WarpedPair {
 public:
  WarpedPair(const WarpLnccCall<T>& call, const LnccTile& tile, int64_t batch)
      : call_(call), tile_(tile), batch_(batch), voxels_(call.sizes.output_voxels()), dims_(call.sizes.dims) {
    const int64_t reach = (call.gradient ? 2 : 1) * (call.window[1] / 2);
    row0_ = std::max<int64_t>(0, tile.j0 - reach);
    rows_ = std::min(call.sizes.output[1], tile.j1 + reach) - row0_;
    slots_ = std::min(call.window[0] + 1, call.sizes.output[0]);
    stride_ = call.sizes.output[2] + kLanes;  // blocks are written whole
    displacement_ = call.displacement + batch * dims_ * voxels_;
    weight_ = call.weight ? call.weight + batch * voxels_ : nullptr;
    values_.resize(slots_ * rows_ * stride_);
    if (call.gradient) slopes_.resize(slots_ * (tile.j1 - tile.j0) * dims_ * stride_);
  }
  virtual ~WarpedPair() = default;

  void begin(int64_t channel, T shift_a, T shift_b) {
    const int64_t volume = batch_ * call_.sizes.channels + channel;
    fixed_ = call_.fixed + volume * voxels_;
    moving_ = call_.moving + volume * call_.sizes.image_voxels();
    shift_a_ = shift_a, shift_b_ = shift_b;
    first_ = channel == 0;
  }

  virtual void enter(int64_t i, int64_t j) = 0;
  const T* a(int64_t i, int64_t j) const { return fixed_ + voxel(i, j); }
  const T* b(int64_t i, int64_t j) const { return values_.data() + (i % slots_ * rows_ + j - row0_) * stride_; }
  const T* weight(int64_t i, int64_t j) const { return weight_ ? weight_ + voxel(i, j) : nullptr; }
  void value(int64_t, int64_t, const T*) {}

  void gradient(int64_t i, int64_t j, const T* const (&boxes)[5]) {
    if (dims_ == 3) first_ ? gradient_row<3, true>(i, j, boxes) : gradient_row<3, false>(i, j, boxes);
    else first_ ? gradient_row<2, true>(i, j, boxes) : gradient_row<2, false>(i, j, boxes);
  }

 protected:
  int64_t voxel(int64_t i, int64_t j) const { return (i * call_.sizes.output[1] + j) * call_.sizes.output[2]; }
  T* slope_row(int64_t i, int64_t j) { return slopes_.data() + (i % slots_ * (tile_.j1 - tile_.j0) + j - tile_.j0) * dims_ * stride_; }

  const WarpLnccCall<T>& call_;
  const LnccTile tile_;
  const int64_t batch_, voxels_, dims_;
  const T *displacement_, *weight_, *fixed_ = nullptr, *moving_ = nullptr;
  T shift_a_ = 0, shift_b_ = 0;
  bool first_ = true;
  int64_t row0_, rows_, slots_, stride_;
  std::vector<T> values_, slopes_;

 private:
  template <int D, bool first>
  void gradient_row(int64_t i, int64_t j, const T* const (&boxes)[5]) {
    const int64_t n = call_.sizes.output[2], stride = stride_;
    const T *x = b(i, j), *y = a(i, j), *slope = slope_row(i, j), *cross = boxes[0], *square = boxes[1], *linear = boxes[2];
    const T own_shift = shift_b_, other_shift = shift_a_, scale = call_.scale;
    T* target[D];
    for (int d = 0; d < D; ++d) target[d] = call_.gradient + (batch_ * D + d) * voxels_ + voxel(i, j);
    for (int64_t k = 0; k < n; ++k) {
      const T g = scale * lncc_gradient(x[k] - own_shift, y[k] - other_shift, cross[k], square[k], linear[k]);
      for (int d = 0; d < D; ++d) target[d][k] = (first ? T(0) : target[d][k]) + g * slope[d * stride + k];
    }
  }
};

template <int D, class Index, class T>
class Warped final : public WarpedPair<T> {
 public:
  Warped(const WarpLnccCall<T>& call, const LnccTile& tile, int64_t batch) : WarpedPair<T>(call, tile, batch), block_(call.sizes, call.padding) {}

  void enter(int64_t i, int64_t j) override {
    const LnccTile& tile = this->tile_;
    const bool in_tile = i >= tile.i0 && i < tile.i1 && j >= tile.j0 && j < tile.j1;
    if (this->call_.gradient && in_tile) warp_row<true>(i, j);
    else warp_row<false>(i, j);
  }

 private:
  template <bool with_slope>
  void warp_row(int64_t i, int64_t j) {
    const int64_t n = this->call_.sizes.output[2];
    const Row row{this->batch_, i, j, this->voxel(i, j)};
    T *values = const_cast<T*>(this->b(i, j)), *slopes = nullptr;
    if constexpr (with_slope) slopes = this->slope_row(i, j);
    for (int64_t k = 0; k < n; k += kLanes) {
      alignas(64) T value[kLanes], slope[D][kLanes];
      block_.locate(this->displacement_, row, k, static_cast<int>(std::min<int64_t>(kLanes, n - k)));
      block_.template sample<true, with_slope>(this->moving_, this->call_.fill, value, slope);
      std::copy_n(value, kLanes, values + k);
      if constexpr (with_slope) for (int d = 0; d < D; ++d) std::copy_n(slope[d], kLanes, slopes + d * this->stride_ + k);
    }
  }

  WarpBlock<D, Index, T> block_;
};

// Sum of weight * ncc over a tile of one batch item.
template <class T>
double sweep(WarpedPair<T>& images, const LnccShape<T>& shape, const LnccTile& tile, int64_t channels, const T* shift_a, const T* shift_b, bool gradient) {
  double total = 0;
  for (int64_t c = 0; c < channels; ++c) {
    images.begin(c, shift_a[c], shift_b[c]);
    total += LnccSweep<T, WarpedPair<T>>(shape, tile, shift_a[c], shift_b[c], false, gradient, images).run();
  }
  return total;
}

}  // namespace

template <class T>
void warp_lncc(const WarpLnccCall<T>& call, int threads) {
  const WarpSizes& s = call.sizes;
  const int64_t volumes = s.batch * s.channels, voxels = s.output_voxels();
  advise_large_pages(call.gradient, s.batch * s.dims * voxels);
  // The warped image's mean is not known before it is warped; that of the moving image serves as well.
  const std::vector<T> shift_a = volume_shifts(call.fixed, volumes, voxels, threads), shift_b = volume_shifts(call.moving, volumes, s.image_voxels(), threads);
  const LnccShape<T> shape{{s.output[0], s.output[1], s.output[2]}, {call.window[0], call.window[1], call.window[2]}, call.eps};
  const LnccTiling tiles(shape, 96);  // more planes than lncc takes: each one around the tile is warped for nothing
  std::vector<double> totals(s.batch * tiles.count());
  for_dims_and_index(s, [&](auto dims, auto index) {
    parallel_for(s.batch * tiles.count(), threads, [&](int64_t job) {
      const int64_t batch = job / tiles.count(), volume = batch * s.channels;
      const LnccTile tile = tiles[job % tiles.count()];
      Warped<dims.value, decltype(index), T> images(call, tile, batch);
      totals[job] = sweep(images, shape, tile, s.channels, shift_a.data() + volume, shift_b.data() + volume, call.gradient != nullptr);
    });
  });
  *call.total = 0;
  for (double t : totals) *call.total += t;
}

template void warp_lncc<float>(const WarpLnccCall<float>&, int);
template void warp_lncc<double>(const WarpLnccCall<double>&, int);

}  // namespace regkit
