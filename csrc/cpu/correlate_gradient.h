// Gradients of the similarities of keypoints by both features, from the weights alpha, beta and gamma of core/correlate.h. FLOPs: 3 C P a
// displacement each, as forward.
//
// By the fixed features: per keypoint, one sum over all displacements for each channel and patch sample, several samples at a time so that
// they share the loads of alpha; the patch gradients are then added to the image channel by channel. By the moving features: per keypoint,
// each cell of the window sums over the patch samples that read it (gather, not scatter), and windows are added to the image. ssd is
// differenced before it is weighted, alpha (F - M), so that nothing cancels.
#pragma once
#include <cstddef>

#include "core/correlate.h"
#include "cpu/correlate.h"
#include "cpu/correlate_window.h"

namespace regkit {

constexpr int kBlock = 4;  // vectors, or patch samples, at a time

// Values of all displacements at the window's pitch, zeros in every cell that is no displacement, so that any shift of it may be read.
template <class T>
class PaddedSearch {
 public:
  explicit PaddedSearch(const SearchLayout& layout)
      : layout_(layout),
        front_(layout.window[0] - layout.search[0] + 1),
        cells_((2 * front_ + layout.search[0]) * layout.plane_cells() + kBlock * kLaneCount<T>, T(0)) {}

  void fill(const T* values, T scale, int64_t begin, int64_t end) {
    for (int64_t i = std::max<int64_t>(begin, 0); i < std::min(end, layout_.search[0]); ++i)
      for (int64_t j = 0; j < layout_.search[1]; ++j) {
        const T* source = values + (i * layout_.search[1] + j) * layout_.search[2];
        T* target = cells_.data() + (front_ + i) * layout_.plane_cells() + j * layout_.window[2];
        for (int64_t k = 0; k < layout_.search[2]; ++k) target[k] = scale * source[k];
      }
  }

  // Cells of plane i; also those before and behind it may be read, up to one window.
  const T* plane(int64_t i) const { return cells_.data() + (front_ + i) * layout_.plane_cells(); }

 private:
  const SearchLayout& layout_;
  int64_t front_;
  std::vector<T> cells_;
};

template <class T>
T alpha_scale(const CorrelateSizes& s, const SearchLayout& layout) {
  const T inverse = T(1) / static_cast<T>(layout.patch_count);
  return s.metric == static_cast<int>(Metric::ssd) ? -2 * inverse : (s.metric == static_cast<int>(Metric::dot) ? inverse : T(1));
}

// sums[t] += sum over cells of alpha (window[shift t] - origin[t]) for `count` <= kBlock samples.
template <class T>
void add_samples(const SearchLayout& layout, const PaddedSearch<T>& alpha, const T* window, const Tap* taps, const T* origin, int64_t count,
                 T* sums) {
  Lanes<T> s[kBlock] = {};
  const T* moving[kBlock];
  T value[kBlock];
  for (int t = 0; t < kBlock; ++t) {
    moving[t] = window + taps[t < count ? t : 0].shift;
    value[t] = origin[t < count ? t : 0];
  }
  // One run over all planes: the cells between displacements have alpha = 0.
  const T* a = alpha.plane(0);
  const int64_t last = ((layout.search[0] - 1) * layout.window[1] + layout.search[1] - 1) * layout.window[2] + layout.search[2];
  for (int64_t x = 0; x < last; x += kLaneCount<T>) {
    const Lanes<T> lanes = load_lanes(a + x);
    for (int t = 0; t < kBlock; ++t) s[t] += lanes * (load_lanes(moving[t] + x) - value[t]);
  }
  for (int t = 0; t < count; ++t) sums[t] += sum_lanes<T>(s[t]);
}

// The gradient of one fixed patch, (channels, patch samples).
template <class Stored, class T = arithmetic<Stored>>
void patch_gradient(const CorrelateSizes& s, const SearchLayout& layout, const PaddedSearch<T>& alpha, const T* patch,
                    const FeatureImage<Stored>& moving, const Position& center, T gamma, std::vector<T>& window, T* gradient) {
  const bool ssd = s.metric == static_cast<int>(Metric::ssd);
  std::fill_n(gradient, s.channels * layout.patch_count, T(0));
  for (int64_t c = 0; c < s.channels; ++c, patch += layout.patch_count, gradient += layout.patch_count) {
    for (const Phase& phase : layout.phases) {
      gather_window(layout, phase, moving, c, center, 0, layout.window[0], window.data());
      for (size_t tap = 0; tap < phase.taps.size(); tap += kBlock) {
        const int64_t count = std::min<int64_t>(kBlock, phase.taps.size() - tap);
        T origin[kBlock] = {}, sums[kBlock] = {};
        for (int64_t t = 0; ssd && t < count; ++t) origin[t] = patch[phase.taps[tap + t].patch];
        add_samples(layout, alpha, window.data(), &phase.taps[tap], origin, count, sums);
        for (int64_t t = 0; t < count; ++t) gradient[phase.taps[tap + t].patch] = sums[t];
      }
    }
    for (int64_t p = 0; p < layout.patch_count; ++p) gradient[p] += gamma * patch[p];
  }
}

// Adds one channel's patch gradients, `pitch` apart, to its image in the order of the keypoints.
template <class T>
void scatter_patches(const CorrelateSizes& s, const SearchLayout& layout, const int64_t* keypoints, const T* gradients, int64_t pitch,
                     T* channel) {
  const int64_t step = layout.patch_stride, *r = layout.patch_radius, *n = s.fixed;
  for (int64_t point = 0; point < s.keypoints; ++point) {
    const Position p(keypoints + point * s.dims, s.dims);
    const T* g = gradients + point * pitch;
    for (int64_t i = -r[0]; i <= r[0]; ++i)
      for (int64_t j = -r[1]; j <= r[1]; ++j)
        for (int64_t k = -r[2]; k <= r[2]; ++k)
          channel[(clamp_index(p.at[0] + step * i, n[0]) * n[1] + clamp_index(p.at[1] + step * j, n[1])) * n[2] +
                  clamp_index(p.at[2] + step * k, n[2])] += *g++;
  }
}

// Gradients by the moving features within the planes [begin, end) of some channels of one batch item.
template <class Stored>
class WindowGradient {
  using T = arithmetic<Stored>;

 public:
  WindowGradient(const CorrelateSizes& s, const SearchLayout& layout, int64_t begin, int64_t end)
      : s_(s), layout_(layout), begin_(begin), end_(end), alpha_(layout), beta_(layout) {
    window_.assign(layout.window_size + kBlock * kLaneCount<T>, T(0));
    plane_.resize(layout.plane_cells() + kBlock * kLaneCount<T>);
    patch_.resize(layout.patch_count);
  }

  // Adds one keypoint's gradient to those of the channels [first, last) of `gradient` (channels, voxels).
  void add(const FeatureImage<Stored>& fixed, const FeatureImage<Stored>& moving, int64_t first, int64_t last, const Position& keypoint,
           const Position& center, const T* alpha, const T* beta, T* gradient) {
    const int64_t most = window_planes(center, layout_.phases.front(), false), least = window_planes(center, layout_.phases.back(), true);
    if (least >= most) return;
    const int64_t span = layout_.window[0] - layout_.search[0];
    alpha_.fill(alpha, alpha_scale<T>(s_, layout_), least - span, most);
    if (beta) beta_.fill(beta, T(1), least - span, most);
    for (int64_t c = first; c < last; ++c) {
      gather_patch(layout_, fixed, c, 1, keypoint, patch_.data());
      for (const Phase& phase : layout_.phases) add_phase(phase, moving, c, center, beta != nullptr, gradient + c * s_.moving_voxels());
    }
  }

 private:
  // The first window plane that reads the slab (lowest) or the first behind it. Planes beyond the image read its first or last plane.
  int64_t window_planes(const Position& center, const Phase& phase, bool lowest) const {
    const int64_t start = center.at[0] + layout_.stride * layout_.first[0] + phase.offset[0], bound = lowest ? begin_ : end_;
    if (bound <= 0) return 0;
    if (bound >= s_.moving[0]) return layout_.window[0];
    const int64_t distance = bound - start;
    return std::clamp<int64_t>(distance <= 0 ? 0 : (distance + layout_.stride - 1) / layout_.stride, 0, layout_.window[0]);
  }

  void add_phase(const Phase& phase, const FeatureImage<Stored>& image, int64_t channel, const Position& center, bool with_beta,
                 T* gradient) {
    const int64_t first = window_planes(center, phase, true), last = window_planes(center, phase, false);
    const bool ssd = s_.metric == static_cast<int>(Metric::ssd);
    if (first >= last) return;
    if (ssd || with_beta) gather_window(layout_, phase, image, channel, center, first, last, window_.data());
    for (int64_t i = first; i < last; ++i) {
      const T* moving = window_.data() + (i - first) * layout_.plane_cells();
      for (int64_t x = 0; x < layout_.plane_cells(); x += kBlock * kLaneCount<T>) {
        if (ssd) gather_cells<true, false>(phase, i, x, moving);
        else if (with_beta) gather_cells<false, true>(phase, i, x, moving);
        else gather_cells<false, false>(phase, i, x, moving);
      }
      add_plane(phase, i, center, gradient);
    }
  }

  // plane[x, ...) = sum over patch samples of alpha F (+ beta M), or of alpha (F - M).
  template <bool difference, bool with_beta>
  void gather_cells(const Phase& phase, int64_t i, int64_t x, const T* moving) {
    constexpr int L = kLaneCount<T>;
    Lanes<T> sum[kBlock] = {}, weight[kBlock] = {}, m[kBlock];
    for (int v = 0; v < kBlock; ++v) m[v] = load_lanes(moving + x + v * L);
    const T *alpha = alpha_.plane(i) + x, *beta = beta_.plane(i) + x;
    for (const Tap& tap : phase.taps) {
      const T f = patch_[tap.patch];
      for (int v = 0; v < kBlock; ++v) {
        const Lanes<T> a = load_lanes(alpha - tap.shift + v * L);
        if constexpr (difference) sum[v] += a * (f - m[v]);
        else sum[v] += a * f;
        if constexpr (with_beta) weight[v] += load_lanes(beta - tap.shift + v * L);
      }
    }
    for (int v = 0; v < kBlock; ++v) {
      if constexpr (with_beta) sum[v] += weight[v] * m[v];
      store_lanes(plane_.data() + x + v * L, sum[v]);
    }
  }

  void add_plane(const Phase& phase, int64_t i, const Position& center, T* gradient) {
    const int64_t step = layout_.stride, *n = s_.moving, nk = layout_.window[2];
    int64_t start[3];
    for (int d = 0; d < 3; ++d) start[d] = center.at[d] + step * layout_.first[d] + phase.offset[d];
    T* plane = gradient + clamp_index(start[0] + step * i, n[0]) * n[1] * n[2];
    const bool consecutive = step == 1 && start[2] >= 0 && start[2] + nk <= n[2];
    for (int64_t j = 0; j < layout_.window[1]; ++j) {
      const T* source = plane_.data() + j * nk;
      T* row = plane + clamp_index(start[1] + step * j, n[1]) * n[2];
      if (consecutive)
        for (int64_t k = 0; k < nk; ++k) row[start[2] + k] += source[k];
      else
        for (int64_t k = 0; k < nk; ++k) row[clamp_index(start[2] + step * k, n[2])] += source[k];
    }
  }

  const CorrelateSizes& s_;
  const SearchLayout& layout_;
  int64_t begin_, end_;
  PaddedSearch<T> alpha_, beta_;
  std::vector<T> window_, plane_, patch_;
};

}  // namespace regkit
