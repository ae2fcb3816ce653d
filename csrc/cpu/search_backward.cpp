// See search_backward.h. Each step of a block is parallel: over keypoints for their rows of gradients and for their fixed patches; over
// slabs of planes times groups of channels for the moving features, where a job adds the windows of all keypoints of the block in their
// order. So no two threads write to one voxel, and the order of sums depends on nothing but the keypoints.
#include "cpu/search_backward.h"

#include "cpu/correlate_gradient.h"
#include "cpu/correlate_point.h"
#include "cpu/correlate_search.h"

namespace regkit {
namespace {

constexpr int64_t kKeypointsPerJob = 8;
constexpr int64_t kBlockBytes = 4 << 20;
constexpr int64_t kJobs = 32;  // of the gradient by the moving features

template <class Stored>
class Backward {
  using T = arithmetic<Stored>;

 public:
  Backward(const SearchCall<Stored>& call, const SimilarityGradient<T>& gradient, T* grad_fixed, T* grad_moving)
      : call_(call),
        s_(call.sizes),
        layout_(s_),
        points_(PointGradient<Stored>::serves(layout_, call.moving.channels_last)),
        gradient_(gradient),
        grad_fixed_(grad_fixed),
        grad_moving_(grad_moving) {
    if (grad_fixed) patches_.resize(s_.batch * s_.keypoints * s_.channels * layout_.patch_count);
    if (grad_moving) {
      const int64_t size = s_.batch * s_.channels, voxels = s_.moving_voxels();
      parallel_for(size, call.threads, [&](int64_t channel) { std::fill_n(grad_moving + channel * voxels, voxels, T(0)); });
    }
  }

  void run() {
    const std::vector<int64_t> order = by_locality(call_.centers, s_);
    const int64_t size = std::max<int64_t>(2 * kKeypointsPerJob, kBlockBytes / (layout_.displacements * sizeof(T)));
    const Chunks blocks{static_cast<int64_t>(order.size()), size};
    const int64_t rows = std::min<int64_t>(size, order.size()) * layout_.displacements;
    if (features()) alpha_.resize(rows);
    if (gradient_.use_similarities) similarities_.resize(rows);
    if (features() && cosine()) beta_.resize(rows), gamma_.resize(size);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      keypoints_ = order.data() + blocks.begin(block);
      count_ = blocks.end(block) - blocks.begin(block);
      weights();
      if (gradient_.use_similarities) gradient_.use_similarities(keypoints_, count_, similarities_.data());
      if (grad_fixed_) patches();
      if (grad_moving_) windows();
    }
    if (grad_fixed_) add_patches();
  }

 private:
  bool cosine() const { return s_.metric == static_cast<int>(Metric::cosine); }
  bool features() const { return grad_fixed_ || grad_moving_; }
  T* alpha(int64_t row) { return alpha_.data() + row * layout_.displacements; }
  T* beta(int64_t row) { return beta_.empty() ? nullptr : beta_.data() + row * layout_.displacements; }
  Position keypoint(int64_t n) const { return Position(call_.keypoints + n * s_.dims, s_.dims); }
  Position center(int64_t n) const { return Position(call_.centers + n * s_.dims, s_.dims); }
  FeatureImage<Stored> fixed(int64_t item) const { return {call_.fixed, s_.fixed, s_.batch, s_.channels, item}; }
  FeatureImage<Stored> moving(int64_t item) const { return {call_.moving, s_.moving, s_.batch, s_.channels, item}; }

  // alpha, beta, gamma and similarities of the block's keypoints, as far as they are needed.
  void weights() {
    if (features() && gradient_.of_block) gradient_.of_block(keypoints_, count_, alpha_.data());
    const bool of_keypoint = features() && gradient_.of_keypoint, keep = static_cast<bool>(gradient_.use_similarities);
    if (!of_keypoint && !keep && !(features() && cosine())) return;
    const Chunks chunks{count_, kKeypointsPerJob};
    parallel_for(chunks.count(), call_.threads, [&](int64_t job) {
      Correlator<Stored> correlator(call_, layout_);
      std::vector<T> row(of_keypoint && !keep ? layout_.displacements : 0);
      for (int64_t at = chunks.begin(job); at < chunks.end(job); ++at) {
        correlator.run(keypoints_[at]);
        T* similarities = keep ? similarities_.data() + at * layout_.displacements : row.data();
        if (of_keypoint || keep) correlator.write(similarities);
        if (of_keypoint) gradient_.of_keypoint(keypoints_[at], similarities, alpha(at));
        if (features() && cosine()) gamma_[at] = correlator.cosine_gradient(alpha(at), beta(at));
      }
    });
  }

  void patches() {
    const Chunks chunks{count_, kKeypointsPerJob};
    const int64_t size = s_.channels * layout_.patch_count;
    if (points_) return point_patches(chunks);
    parallel_for(chunks.count(), call_.threads, [&](int64_t job) {
      PaddedSearch<T> padded(layout_);
      std::vector<T> window(layout_.window_size + 2 * kLaneCount<T>, T(0)), patch(size);
      for (int64_t at = chunks.begin(job); at < chunks.end(job); ++at) {
        const int64_t n = keypoints_[at], item = n / s_.keypoints;
        padded.fill(alpha(at), alpha_scale<T>(s_, layout_), 0, layout_.search[0]);
        gather_patch(layout_, fixed(item), 0, s_.channels, keypoint(n), patch.data());
        patch_gradient(s_, layout_, padded, patch.data(), moving(item), center(n), gamma_.empty() ? T(0) : gamma_[at], window,
                       patches_.data() + n * size);
      }
    });
  }

  void point_patches(const Chunks& chunks) {
    constexpr int64_t kTogether = 4;
    parallel_for(chunks.count(), call_.threads, [&](int64_t job) {
      PointGradient<Stored> point(s_, layout_);
      std::vector<T> patch(s_.channels);
      for (int64_t at = chunks.begin(job); at < chunks.end(job); ++at) {
        const int64_t n = keypoints_[at], item = n / s_.keypoints;
        const FeatureImage<Stored> image = moving(item);
        T* gradient = patches_.data() + n * s_.channels;
        gather_patch(layout_, fixed(item), 0, s_.channels, keypoint(n), patch.data());
        point.move(image, center(n), alpha(at), alpha_scale<T>(s_, layout_), nullptr, 0, layout_.search[0]);
        int64_t c = 0;
        for (; c + kTogether <= s_.channels; c += kTogether) point.template sum_fixed<kTogether>(image, c, patch.data() + c, gradient + c);
        for (; c < s_.channels; ++c) point.template sum_fixed<1>(image, c, patch.data() + c, gradient + c);
        for (c = 0; c < s_.channels && !gamma_.empty(); ++c) gradient[c] += gamma_[at] * patch[c];
      }
    });
  }

  void add_patches() {
    const int64_t size = s_.channels * layout_.patch_count;
    parallel_for(s_.batch * s_.channels, call_.threads, [&](int64_t job) {
      const int64_t item = job / s_.channels, c = job % s_.channels;
      T* channel = grad_fixed_ + job * s_.fixed_voxels();
      std::fill_n(channel, s_.fixed_voxels(), T(0));
      scatter_patches(s_, layout_, call_.keypoints + item * s_.keypoints * s_.dims,
                      patches_.data() + item * s_.keypoints * size + c * layout_.patch_count, size, channel);
    });
  }

  void windows() {
    // In 2-D there is one plane: then channels alone are split.
    const Chunks slabs{s_.moving[0], std::max<int64_t>(1, s_.moving[0] / 8)};
    const Chunks groups{s_.channels, std::max<int64_t>(1, s_.channels * slabs.count() / kJobs)};
    const int64_t first_item = keypoints_[0] / s_.keypoints, items = keypoints_[count_ - 1] / s_.keypoints + 1 - first_item;
    const int64_t jobs = slabs.count() * groups.count();
    parallel_for(items * jobs, call_.threads, [&](int64_t job) {
      const int64_t item = first_item + job / jobs, slab = job % jobs % slabs.count(), group = job % jobs / slabs.count();
      const auto each = [&](auto&& add) {
        for (int64_t at = 0; at < count_; ++at)
          if (keypoints_[at] / s_.keypoints == item) add(at, keypoints_[at]);
      };
      T* gradient = grad_moving_ + item * s_.channels * s_.moving_voxels();
      if (points_) {
        PointGradient<Stored> point(s_, layout_);
        each([&](int64_t at, int64_t n) {
          const int64_t begin = first_plane(center(n), slabs.begin(slab)), end = first_plane(center(n), slabs.end(slab));
          if (begin >= end) return;
          point.move(moving(item), center(n), alpha(at), alpha_scale<T>(s_, layout_), beta(at), begin, end);
          for (int64_t c = groups.begin(group); c < groups.end(group); ++c) {
            T f;
            gather_patch(layout_, fixed(item), c, 1, keypoint(n), &f);
            point.add_moving(moving(item), c, f, gradient + c * s_.moving_voxels());
          }
        });
      } else {
        WindowGradient<Stored> window(s_, layout_, slabs.begin(slab), slabs.end(slab));
        each([&](int64_t at, int64_t n) {
          window.add(fixed(item), moving(item), groups.begin(group), groups.end(group), keypoint(n), center(n), alpha(at), beta(at),
                     gradient);
        });
      }
    });
  }

  // The first plane of the search that reads plane `bound` of the image or one behind it; planes beyond the image read its first or last.
  int64_t first_plane(const Position& center, int64_t bound) const {
    if (bound <= 0) return 0;
    if (bound >= s_.moving[0]) return layout_.search[0];
    return std::clamp<int64_t>(bound - center.at[0] - layout_.first[0], 0, layout_.search[0]);
  }

  const SearchCall<Stored>& call_;
  const CorrelateSizes& s_;
  const SearchLayout layout_;
  const bool points_;  // patches of one voxel
  const SimilarityGradient<T>& gradient_;
  T *grad_fixed_, *grad_moving_;
  const int64_t* keypoints_ = nullptr;  // of the block
  int64_t count_ = 0;
  std::vector<T> alpha_, beta_, gamma_, similarities_, patches_;
};

}  // namespace

template <class Stored, class T>
void search_backward(const SearchCall<Stored>& call, const SimilarityGradient<T>& gradient, T* grad_fixed, T* grad_moving) {
  Backward<Stored>(call, gradient, grad_fixed, grad_moving).run();
}

#define REGKIT_INSTANTIATE(S)                                                                                                        \
  template void search_backward<S>(const SearchCall<S>&, const SimilarityGradient<arithmetic<S>>&, arithmetic<S>*, arithmetic<S>*);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
