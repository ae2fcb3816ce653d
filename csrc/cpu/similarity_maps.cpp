// Patches and their cosine maps on the CPU. A map of kernel size s costs s^D multiply-adds a voxel; the kernels are crops of one another,
// so that all maps together cost what the largest does (729 for 9^3, against 1224 one by one), and 4 bytes a value are written:
// compute-bound.
//
// A group of points is as many as a vector has lanes, one point a lane: their windows of the moving image, gathered and interleaved, turn
// every tap into aligned loads with no lanes to spare, whatever the patch size. A block of kBlock neighbouring outputs stays in registers
// through all taps, smallest kernel first, and passes on what it has whenever a kernel is complete. The local norms are sums of squares
// over boxes, axis by axis, added and never subtracted: where the image is nearly empty they are as exact as elsewhere.
#include "cpu/similarity_maps.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "core/correlate.h"
#include "cpu/lanes.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int kBlock = 9;

inline int64_t clamp_index(int64_t x, int64_t n) { return x < 0 ? 0 : (x < n ? x : n - 1); }

// Sizes and taps, the same for every point. In 2-D the axis i has one voxel and no reach.
struct Layout {
  int64_t patch[3], reach[3], window[3], run;  // run: outputs of a row, a multiple of kBlock
  struct Kernel {
    int64_t radius, map;                  // which map it is in the result
    std::vector<int64_t> shift;           // where the taps that it adds to the smaller kernels lie in the window
    std::vector<std::array<int64_t, 3>> tap;
  };
  std::vector<Kernel> kernels;  // by size

  Layout(int dims, int64_t patch_size, const std::vector<int64_t>& sizes) {
    int64_t largest = 0;
    for (int64_t size : sizes) largest = std::max(largest, size / 2);
    run = (patch_size + kBlock - 1) / kBlock * kBlock;
    for (int d = 0; d < 3; ++d) {
      const bool used = d >= 3 - dims;
      patch[d] = used ? patch_size : 1;
      reach[d] = used ? largest : 0;
      window[d] = (d == 2 ? run : patch[d]) + 2 * reach[d];
    }
    std::vector<size_t> order(sizes.size());
    std::iota(order.begin(), order.end(), size_t(0));
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sizes[a] < sizes[b]; });
    int64_t inner = -1;
    for (size_t map : order) {
      Kernel kernel{sizes[map] / 2, static_cast<int64_t>(map), {}, {}};
      for (int64_t i = -reach[0]; i <= reach[0]; ++i)
        for (int64_t j = -reach[1]; j <= reach[1]; ++j)
          for (int64_t k = -reach[2]; k <= reach[2]; ++k) {
            const int64_t norm = std::max({std::abs(i), std::abs(j), std::abs(k)});
            if (norm <= inner || norm > kernel.radius) continue;
            kernel.shift.push_back(((i + reach[0]) * window[1] + j + reach[1]) * window[2] + k + reach[2]);
            kernel.tap.push_back({i, j, k});
          }
      inner = kernel.radius;
      kernels.push_back(std::move(kernel));
    }
  }
};

template <class Stored>
class Mapper {
  using T = arithmetic<Stored>;
  using V = Lanes<T>;
  static constexpr int kPoints = kLaneCount<T>;

 public:
  Mapper(const SimilarityCall<Stored>& call, const Layout& layout) : call_(call), l_(layout), ring_(2 * layout.reach[0] + 1) {
    const size_t kernels = layout.kernels.size(), row = layout.run;
    window_.resize(layout.window[0] * layout.window[1] * layout.window[2]);
    row_sums_.resize(kernels * layout.window[1] * row);
    plane_sums_.resize(kernels * ring_ * layout.patch[1] * row);
    dots_.resize(kernels * row);
    squares_.resize(row);
    values_.resize(row * kPoints);
    lane_rows_.resize(kPoints * layout.window[2]);
    for (const Layout::Kernel& kernel : layout.kernels) taps_.emplace_back(kernel.shift.size());
    norms_.resize(kernels);
  }

  // The points [first, last) of one batch item, at most kPoints of them; lanes to spare repeat the last one.
  void run(int64_t batch, int64_t first, int64_t last) {
    for (int lane = 0; lane < kPoints; ++lane) {
      const int64_t n = batch * call_.count + std::min(first + lane, last - 1);
      std::fill_n(at_[lane], 3, 0);
      std::copy_n(call_.points + n * call_.dims, call_.dims, at_[lane] + 3 - call_.dims);
    }
    const Stored* fixed = call_.fixed + batch * call_.fixed_size[0] * call_.fixed_size[1] * call_.fixed_size[2];
    const Stored* moving = call_.moving + batch * call_.moving_size[0] * call_.moving_size[1] * call_.moving_size[2];
    points_ = static_cast<int>(last - first);
    voxels_ = l_.patch[0] * l_.patch[1] * l_.patch[2];
    stride_ = (2 + static_cast<int64_t>(l_.kernels.size())) * voxels_;
    out_ = call_.out + (batch * call_.count + first) * stride_;
    for (int lane = 0; lane < points_; ++lane) {
      copy_patch(fixed, call_.fixed_size, at_[lane], out_ + lane * stride_);
      copy_patch(moving, call_.moving_size, at_[lane], out_ + lane * stride_ + voxels_);
    }
    if (l_.kernels.empty()) return;
    gather_taps(fixed);
    gather_window(moving);
    int64_t planes = 0;
    for (int64_t i = 0; i < l_.patch[0]; ++i) {
      for (; planes < i + ring_; ++planes) add_plane(planes);
      for (int64_t j = 0; j < l_.patch[1]; ++j) {
        for (int64_t k = 0; k < l_.run; k += kBlock) add_dots(window_.data() + (i * l_.window[1] + j) * l_.window[2] + k, k);
        write_row(i, j);
      }
    }
  }

 private:
  void copy_patch(const Stored* image, const int64_t (&n)[3], const int64_t* at, Stored* out) const {
    const int64_t half[3] = {l_.patch[0] / 2, l_.patch[1] / 2, l_.patch[2] / 2};
    const bool inside = at[2] - half[2] >= 0 && at[2] + half[2] < n[2];
    for (int64_t i = 0; i < l_.patch[0]; ++i)
      for (int64_t j = 0; j < l_.patch[1]; ++j, out += l_.patch[2]) {
        const Stored* row = image + (clamp_index(at[0] + i - half[0], n[0]) * n[1] + clamp_index(at[1] + j - half[1], n[1])) * n[2];
        const int64_t start = at[2] - half[2];
        if (inside) std::copy_n(row + start, l_.patch[2], out);
        else for (int64_t k = 0; k < l_.patch[2]; ++k) out[k] = row[clamp_index(start + k, n[2])];
      }
  }

  // The centre crop of the fixed patch, and the norm of each kernel.
  void gather_taps(const Stored* fixed) {
    const int64_t(&n)[3] = call_.fixed_size;
    V squares{};
    for (size_t q = 0; q < l_.kernels.size(); ++q) {
      for (size_t t = 0; t < taps_[q].size(); ++t) {
        const auto& o = l_.kernels[q].tap[t];
        V& tap = taps_[q][t];
        for (int lane = 0; lane < kPoints; ++lane) {
          const int64_t* at = at_[lane];
          const int64_t row = clamp_index(at[0] + o[0], n[0]) * n[1] + clamp_index(at[1] + o[1], n[1]);
          tap[lane] = load(fixed[row * n[2] + clamp_index(at[2] + o[2], n[2])]);
        }
        squares += tap * tap;
      }
      for (int lane = 0; lane < kPoints; ++lane) norms_[q][lane] = std::sqrt(squares[lane]);
    }
  }

  void gather_window(const Stored* moving) {
    const int64_t(&n)[3] = call_.moving_size;
    V* out = window_.data();
    for (int64_t i = 0; i < l_.window[0]; ++i)
      for (int64_t j = 0; j < l_.window[1]; ++j, out += l_.window[2]) {
        for (int lane = 0; lane < kPoints; ++lane) {
          const int64_t* at = at_[lane];
          int64_t first[3];
          for (int d = 0; d < 3; ++d) first[d] = at[d] - l_.patch[d] / 2 - l_.reach[d];
          const int64_t start = first[2];
          const Stored* row = moving + (clamp_index(first[0] + i, n[0]) * n[1] + clamp_index(first[1] + j, n[1])) * n[2];
          T* target = lane_rows_.data() + lane * l_.window[2];
          if (start >= 0 && start + l_.window[2] <= n[2]) {
            for (int64_t k = 0; k < l_.window[2]; ++k) target[k] = load(row[start + k]);
          } else {
            for (int64_t k = 0; k < l_.window[2]; ++k) target[k] = load(row[clamp_index(start + k, n[2])]);
          }
        }
        for (int64_t k = 0; k < l_.window[2]; ++k)
          for (int lane = 0; lane < kPoints; ++lane) out[k][lane] = lane_rows_[lane * l_.window[2] + k];
      }
  }

  // Sums of squares over the boxes of one window plane, for every kernel: along k, then along j.
  void add_plane(int64_t plane) {
    const int64_t run = l_.run, rows = l_.window[1];
    for (int64_t j = 0; j < rows; ++j) {
      const V* m = window_.data() + (plane * rows + j) * l_.window[2] + l_.reach[2];
      for (int64_t k = 0; k < run; ++k) {
        V sum = m[k] * m[k];
        int64_t r = 0;
        for (size_t q = 0; q < l_.kernels.size(); ++q) {
          for (; r < l_.kernels[q].radius; ++r) sum += m[k - r - 1] * m[k - r - 1] + m[k + r + 1] * m[k + r + 1];
          row_sums_[(q * rows + j) * run + k] = sum;
        }
      }
    }
    for (size_t q = 0; q < l_.kernels.size(); ++q) {
      const int64_t r = l_.kernels[q].radius;
      for (int64_t j = 0; j < l_.patch[1]; ++j) {
        const V* source = row_sums_.data() + (q * rows + j + l_.reach[1] - r) * run;
        V* target = plane_sums_.data() + ((q * ring_ + plane % ring_) * l_.patch[1] + j) * run;
        for (int64_t k = 0; k < run; ++k) {
          V sum = source[k];
          for (int64_t t = 1; t <= 2 * r; ++t) sum += source[t * run + k];
          target[k] = sum;
        }
      }
    }
  }

  void add_dots(const V* __restrict window, int64_t k) {
    V sum[kBlock] = {};
    for (size_t q = 0; q < l_.kernels.size(); ++q) {
      const V* tap = taps_[q].data();
      const int64_t* shift = l_.kernels[q].shift.data();
      const size_t count = taps_[q].size();
      for (size_t t = 0; t < count; ++t) {
        const V* m = window + shift[t];
        const V f = tap[t];
        for (int c = 0; c < kBlock; ++c) sum[c] += f * m[c];
      }
      for (int c = 0; c < kBlock; ++c) dots_[q * l_.run + k + c] = sum[c];
    }
  }

  void write_row(int64_t i, int64_t j) {
    const int64_t run = l_.run;
    for (size_t q = 0; q < l_.kernels.size(); ++q) {
      const int64_t r = std::min(l_.kernels[q].radius, l_.reach[0]);
      // The planes of the box, one after the other: a plane's sums are one run of memory.
      std::fill(squares_.begin(), squares_.end(), V{});
      for (int64_t t = -r; t <= r; ++t) {
        const V* plane = plane_sums_.data() + ((q * ring_ + (i + l_.reach[0] + t) % ring_) * l_.patch[1] + j) * run;
        for (int64_t k = 0; k < run; ++k) squares_[k] += plane[k];
      }
      alignas(64) T norm[kPoints], dot[kPoints], square[kPoints];
      store_lanes(norm, norms_[q]);
      for (int64_t k = 0; k < l_.patch[2]; ++k) {
        store_lanes(dot, dots_[q * run + k]);
        store_lanes(square, squares_[k]);
        T* __restrict value = values_.data() + k * kPoints;
        for (int lane = 0; lane < kPoints; ++lane) value[lane] = cosine_terms(dot[lane], norm[lane], std::sqrt(square[lane]), T(0)).similarity;
      }
      Stored* row = out_ + (2 + l_.kernels[q].map) * voxels_ + (i * l_.patch[1] + j) * l_.patch[2];
      for (int lane = 0; lane < points_; ++lane)
        for (int64_t k = 0; k < l_.patch[2]; ++k) row[lane * stride_ + k] = store<Stored>(values_[k * kPoints + lane]);
    }
  }

  const SimilarityCall<Stored>& call_;
  const Layout& l_;
  int64_t ring_, at_[kPoints][3], voxels_ = 0, stride_ = 0;
  int points_ = 0;
  Stored* out_ = nullptr;
  std::vector<V> window_, row_sums_, plane_sums_, dots_, squares_, norms_;
  std::vector<std::vector<V>> taps_;
  std::vector<T> values_, lane_rows_;
};

}  // namespace

template <class Stored>
void similarity_maps(const SimilarityCall<Stored>& call, int threads) {
  const Layout layout(call.dims, call.patch_size, call.kernel_sizes);
  const int64_t voxels = layout.patch[0] * layout.patch[1] * layout.patch[2];
  advise_large_pages(call.out, call.batch * call.count * (2 + static_cast<int64_t>(call.kernel_sizes.size())) * voxels);
  // A few groups of points share one Mapper, so that its scratch is touched first by the thread that uses it and then again.
  const Chunks groups{call.count, kLaneCount<arithmetic<Stored>>}, jobs{groups.count(), 4};
  parallel_for(call.batch * jobs.count(), threads, [&](int64_t job) {
    Mapper<Stored> mapper(call, layout);
    const int64_t batch = job / jobs.count(), part = job % jobs.count();
    for (int64_t g = jobs.begin(part); g < jobs.end(part); ++g) mapper.run(batch, groups.begin(g), groups.end(g));
  });
}

template void similarity_maps<float>(const SimilarityCall<float>&, int);
template void similarity_maps<double>(const SimilarityCall<double>&, int);
template void similarity_maps<float16>(const SimilarityCall<float16>&, int);
template void similarity_maps<bfloat16>(const SimilarityCall<bfloat16>&, int);

}  // namespace regkit
