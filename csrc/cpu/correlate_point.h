// Gradients of the similarities of keypoints for patches of one voxel and displacements of one voxel: there every cell of the search is one
// voxel of the moving image, so rows of the image and of its gradient are read and written where they lie. Formulas in core/correlate.h.
//
// Cells beyond the ends of a row repeat its border: their weights are added to the border's. A row is whole vectors and one more that ends
// with it and overlaps the one before; where both are written, both are read first.
#pragma once
#include "core/correlate.h"
#include "cpu/correlate_window.h"

namespace regkit {

template <class Stored>
class PointGradient {
  using T = arithmetic<Stored>;
  static constexpr int64_t L = kLaneCount<T>;

 public:
  PointGradient(const CorrelateSizes& s, const SearchLayout& layout)
      : layout_(layout), ssd_(s.metric == static_cast<int>(Metric::ssd)), cells_(layout.search[2]), pitch_(cells_ + L) {
    for (auto* weights : {&alpha_, &beta_}) weights->assign(layout.search[0] * layout.search[1] * pitch_, T(0));
  }

  static bool serves(const SearchLayout& layout, bool channels_last) {
    return layout.patch_count == 1 && layout.stride == 1 && layout.search[2] >= L && !channels_last;
  }

  // Goes to one keypoint, with alpha times scale, and beta where there is one, of the planes [begin, end) of its search.
  void move(const FeatureImage<Stored>& moving, const Position& center, const T* alpha, T scale, const T* beta, int64_t begin,
            int64_t end) {
    for (int d = 0; d < 3; ++d) start_[d] = center.at[d] + layout_.first[d];
    const RowSpan span(start_[2], cells_, moving.size[2]);
    first_ = span.first;
    count_ = span.count;
    begin_ = begin;
    end_ = end;
    with_beta_ = beta != nullptr;
    for (int64_t row = begin * layout_.search[1]; row < end * layout_.search[1]; ++row) {
      fold(alpha + row * cells_, scale, span, alpha_.data() + row * pitch_);
      if (beta) fold(beta + row * cells_, T(1), span, beta_.data() + row * pitch_);
    }
  }

  // sums = sum of alpha (M - F), or of alpha M, for kChannels channels.
  template <int kChannels>
  void sum_fixed(const FeatureImage<Stored>& moving, int64_t channel, const T* fixed, T* sums) const {
    Lanes<T> s[kChannels] = {};
    T rest[kChannels] = {};
    const int64_t whole = count_ / L * L, tail = count_ - L;
    Lanes<T> index;
    for (int l = 0; l < L; ++l) index[l] = static_cast<T>(l);
    const auto in_tail = index >= static_cast<T>(whole - tail);  // the lanes of the last vector that no vector before it has
    each_row([&](int64_t row, int64_t i, int64_t j) {
      const Stored* source = moving.row(channel, i, j) + first_;
      const T* alpha = alpha_.data() + row * pitch_;
      const auto add = [&](const Lanes<T>& a, int64_t x) {
        for (int q = 0; q < kChannels; ++q) s[q] += a * (load_as_lanes(source + q * moving.channel_step + x) - origin(fixed, q));
      };
      for (int64_t x = 0; x < whole; x += L) add(load_lanes(alpha + x), x);
      if (count_ < L) {
        for (int64_t x = 0; x < count_; ++x)
          for (int q = 0; q < kChannels; ++q) rest[q] += alpha[x] * (load(source[q * moving.channel_step + x]) - origin(fixed, q));
      } else if (whole < count_) {
        add(in_tail ? load_lanes(alpha + tail) : Lanes<T>{}, tail);
      }
    });
    for (int q = 0; q < kChannels; ++q) sums[q] = sum_lanes<T>(s[q]) + rest[q];
  }

  // Adds alpha (F - M), or alpha F + beta M, to one channel of the gradient by the moving features.
  void add_moving(const FeatureImage<Stored>& moving, int64_t channel, T fixed, T* gradient) const {
    if (ssd_) add_rows<true, false>(moving, channel, fixed, gradient);
    else if (with_beta_) add_rows<false, true>(moving, channel, fixed, gradient);
    else add_rows<false, false>(moving, channel, fixed, gradient);
  }

 private:
  T origin(const T* fixed, int q) const { return ssd_ ? fixed[q] : T(0); }

  void fold(const T* values, T scale, const RowSpan& span, T* target) const {
    for (int64_t k = 0; k < span.count; ++k) target[k] = scale * values[span.offset + k];
    for (int64_t k = 0; k < span.offset; ++k) target[0] += scale * values[k];
    for (int64_t k = span.offset + span.count; k < cells_; ++k) target[span.count - 1] += scale * values[k];
  }

  template <class Visit>
  void each_row(Visit&& visit) const {
    for (int64_t i = begin_; i < end_; ++i)
      for (int64_t j = 0; j < layout_.search[1]; ++j) visit(i * layout_.search[1] + j, start_[0] + i, start_[1] + j);
  }

  template <bool difference, bool with_beta>
  void add_rows(const FeatureImage<Stored>& moving, int64_t channel, T fixed, T* gradient) const {
    each_row([&](int64_t row, int64_t i, int64_t j) {
      const Stored* source = moving.row(channel, i, j) + first_;
      T* target = gradient + (clamp_index(i, moving.size[0]) * moving.size[1] + clamp_index(j, moving.size[1])) * moving.size[2] + first_;
      const T *alpha = alpha_.data() + row * pitch_, *beta = beta_.data() + row * pitch_;
      const auto added = [&](int64_t x) {
        const Lanes<T> a = load_lanes(alpha + x), g = load_lanes(target + x);
        Lanes<T> m = {};
        if constexpr (difference || with_beta) m = load_as_lanes(source + x);
        if constexpr (difference) return g + a * (fixed - m);
        else if constexpr (with_beta) return g + a * fixed + load_lanes(beta + x) * m;
        else return g + a * fixed;
      };
      if (count_ < L) {
        for (int64_t x = 0; x < count_; ++x) {
          const T m = load(source[x]);
          target[x] += alpha[x] * (difference ? fixed - m : fixed) + (with_beta ? beta[x] * m : T(0));
        }
        return;
      }
      const int64_t last = count_ - L;
      int64_t x = 0;
      for (; x + L <= last; x += L) store_lanes(target + x, added(x));
      const Lanes<T> tail = added(last);
      if (x < last) {
        const Lanes<T> overlapped = added(x);
        store_lanes(target + last, tail);
        store_lanes(target + x, overlapped);
      } else {
        store_lanes(target + last, tail);
      }
    });
  }

  const SearchLayout& layout_;
  bool ssd_, with_beta_ = false;
  int64_t cells_, pitch_, start_[3] = {}, first_ = 0, count_ = 0, begin_ = 0, end_ = 0;
  std::vector<T> alpha_, beta_;
};

}  // namespace regkit
