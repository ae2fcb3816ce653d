// Local correlation of feature maps on the CPU. FLOPs: 2 C a displacement forward and for each gradient, 3 C with ssd: compute-bound.
//
// A job makes some rows of one plane. For each displacement along i it gathers what they are compared with, all channels of the rows they
// reach, into scratch in the L2 cache, with zeros around, so that the loops know no border. What bounds the sums is loading vectors that
// start anywhere, so each is used for several rows at once, which see it at displacements that differ along j: forward, the sums of all
// displacements along k of these rows are in registers while the channels go by; backward, the sums of several channels of these rows while
// the displacements go by. Both gradients are sums over what a voxel was compared with, so nothing is scattered and the threads make no
// difference.
#include "cpu/correlate_dense.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/correlate_dense.h"
#include "cpu/convert.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kScratchBytes = 384 << 10;
constexpr int64_t kJobs = 128;
// What sums are in registers at once: of these displacements, or channels, times these rows.
constexpr int kAtOnce = kVectorBytes == 64 ? 9 : 5, kRowsAtOnce = kVectorBytes == 64 ? 3 : 2;

// The rows that a job works on, and how its scratch is laid out.
struct DenseTile {
  int64_t cells, reach, pitch, rows;  // row length in whole vectors; farthest displacement; row pitch with it on both sides; rows of a job

  DenseTile(const DenseSizes& s, int64_t lanes, int64_t bytes)
      : cells((s.size[2] + lanes - 1) / lanes * lanes), reach(s.radius[2] * s.stride), pitch(cells + 2 * reach) {
    const int64_t fitting = kScratchBytes / (std::max<int64_t>(s.channels, 1) * pitch * bytes) - 2 * s.radius[1] * s.stride;
    rows = std::clamp<int64_t>(fitting, 1, 16);
  }
};

// Copies `count` rows of one channel from row j0 of plane i to target, `pitch` apart; rows outside the image are zeros.
template <class Stored>
void gather_rows(const Stored* channel, const int64_t* size, int64_t i, int64_t j0, int64_t count, int64_t pitch,
                 arithmetic<Stored>* target) {
  using T = arithmetic<Stored>;
  for (int64_t j = j0; j < j0 + count; ++j, target += pitch) {
    if (i < 0 || i >= size[0] || j < 0 || j >= size[1]) {
      std::fill_n(target, size[2], T(0));
      continue;
    }
    const Stored* row = channel + (i * size[1] + j) * size[2];
    int64_t k = 0;
    for (; k + kLaneCount<T> <= size[2]; k += kLaneCount<T>) store_lanes(target + k, load_as_lanes(row + k));
    for (; k < size[2]; ++k) target[k] = load(row[k]);
  }
}

template <class Stored>
void write_cells(const arithmetic<Stored>* source, int64_t count, Stored* target) {
  using T = arithmetic<Stored>;
  if constexpr (std::is_same_v<Stored, T>) {
    if (count == kLaneCount<T>) return store_lanes(target, load_lanes(source));
  }
  for (int64_t k = 0; k < count; ++k) target[k] = store<Stored>(source[k]);
}

// sums[r][q] (vectors) = sum over channels of term(a of row r, b + q step).
template <bool ssd, int Q, int R, class T>
void sum_channels(const T* a, int64_t a_channel, int64_t a_row, const T* b, int64_t b_channel, int64_t step, int64_t channels, T scale,
                  T* sums) {
  Lanes<T> s[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) s[r][q] = Lanes<T>{};
  for (int64_t c = 0; c < channels; ++c, a += a_channel, b += b_channel) {
    Lanes<T> own[R];
    for (int r = 0; r < R; ++r) own[r] = load_lanes(a + r * a_row);
    for (int q = 0; q < Q; ++q) {
      Lanes<T> other = load_lanes(b + q * step);
      keep_in_register(other);
      for (int r = 0; r < R; ++r) s[r][q] += dense_term<ssd>(own[r], other);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) store_lanes(sums + (r * Q + q) * kLaneCount<T>, scale * s[r][q]);
}

// Distances in arrays (rows, channels, cells), and of the weights (rows, displacements, cells).
struct DenseSteps {
  int64_t own_row, channel, window_row, window_channel, weight_row, weight, k;
};

// sums (vectors) of Q channels of R rows += sum over windows [0, windows) and `count` displacements along k of gradient_term(weight, own,
// other). The window moves on by one displacement along j, and row r is one displacement nearer to it than row r - 1.
template <bool ssd, int Q, int R, class T>
void sum_displacements(const T* weights, const T* own, const T* window, int64_t windows, int64_t count, const DenseSteps& step, T* sums) {
  Lanes<T> s[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) s[r][q] = load_lanes(sums + r * step.own_row + q * step.channel);
  for (int64_t w = 0; w < windows; ++w, window += step.window_row)
    for (int64_t dk = 0; dk < count; ++dk, weights += step.weight) {
      Lanes<T> weight[R];
      for (int r = 0; r < R; ++r) weight[r] = load_lanes(weights + r * step.weight_row);
      for (int q = 0; q < Q; ++q) {
        Lanes<T> other = load_lanes(window + q * step.window_channel + dk * step.k);
        keep_in_register(other);
        for (int r = 0; r < R; ++r) {
          Lanes<T> mine = {};
          if constexpr (ssd) mine = load_lanes(own + r * step.own_row + q * step.channel);
          s[r][q] += dense_gradient_term<ssd>(weight[r], mine, other);
        }
      }
    }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) store_lanes(sums + r * step.own_row + q * step.channel, s[r][q]);
}

// Calls f(size, first) for [0, count) in blocks of nearly equal size, at most kAtOnce.
template <class Function>
void in_blocks(int64_t count, Function&& f) {
  const int64_t blocks = (count + kAtOnce - 1) / kAtOnce;
  for (int64_t block = 0, at = 0; block < blocks; ++block) {
    const int64_t size = (count - at + blocks - block - 1) / (blocks - block);
    f(size, at);
    at += size;
  }
}

// sum_channels and sum_displacements for all numbers of rows R and of sums Q in registers, by [R - 1][Q - 1]: what calls them is compiled once.
template <bool ssd, class T>
struct Compiled {
  using Channels = decltype(&sum_channels<ssd, 1, 1, T>);
  using Displacements = decltype(&sum_displacements<ssd, 1, 1, T>);
  Channels channels[kRowsAtOnce][kAtOnce];
  Displacements displacements[kRowsAtOnce][kAtOnce];

  constexpr Compiled() : channels(), displacements() { row(std::make_integer_sequence<int, kRowsAtOnce>()); }

 private:
  template <int... R>
  constexpr void row(std::integer_sequence<int, R...>) {
    (column<R>(std::make_integer_sequence<int, kAtOnce>()), ...);
  }
  template <int R, int... Q>
  constexpr void column(std::integer_sequence<int, Q...>) {
    ((channels[R][Q] = &sum_channels<ssd, Q + 1, R + 1, T>, displacements[R][Q] = &sum_displacements<ssd, Q + 1, R + 1, T>), ...);
  }
};
template <bool ssd, class T>
constexpr Compiled<ssd, T> kCompiled;

// Works on some rows of one plane of one batch item after another. Scratch is (rows, channels, cells): what one row takes lies together.
// Only the cells of the image are ever written: what is around them stays zero.
template <class Stored>
class DenseRows {
  using T = arithmetic<Stored>;

 public:
  DenseRows(const DenseSizes& s, const DenseTile& tile)
      : s_(s),
        tile_(tile),
        own_row_(s.channels * tile.cells),
        window_row_(s.channels * tile.pitch),
        scale_(T(1) / static_cast<T>(std::max<int64_t>(s.channels, 1))) {
    for (int d = 0; d < 3; ++d) cells_[d] = 2 * s.radius[d] + 1;
    own_.assign(tile.rows * own_row_, T(0));
    window_.assign((tile.rows + 2 * s.radius[1] * s.stride) * window_row_, T(0));
  }

  // Goes to rows [j0, j0 + tile.rows) of plane i, as far as there are so many.
  void move(int64_t i, int64_t j0) {
    i_ = i;
    j0_ = j0;
    rows_ = std::min(tile_.rows, s_.size[1] - j0);
  }

  template <bool ssd>
  void forward(const Stored* a, const Stored* b, Stored* out) {
    gather_own(a);
    for (int64_t di = 0; di < cells_[0]; ++di) {
      gather_window(b, di);
      for_groups([&](int64_t base, int64_t rows) {
        for_windows(rows, [&](int64_t first, int64_t count, int64_t window, int64_t windows) {
          for (int64_t w = window; w < window + windows; ++w) forward_rows<ssd>(di, w, base, first, count, out);
        });
      });
    }
  }

  // second: own is b, other is a.
  template <bool ssd>
  void backward(const Stored* grad, const Stored* own, const Stored* other, bool second, Stored* gradient) {
    if (ssd) gather_own(own);
    sums_.assign(tile_.rows * own_row_, T(0));
    weights_.assign(kRowsAtOnce * cells_[1] * cells_[2] * tile_.cells, T(0));
    for (int64_t di = 0; di < cells_[0]; ++di) {
      const bool inside = gather_window(other, di);
      if (second && !inside) continue;  // no voxel of a is compared there
      for_groups([&](int64_t base, int64_t rows) {
        for (int64_t row = 0; row < rows; ++row) gather_weights(grad, di, base + row * s_.stride, row, second);
        for_windows(rows, [&](int64_t first, int64_t count, int64_t window, int64_t windows) {
          backward_rows<ssd>(base, first, count, window, windows);
        });
      });
    }
    for (T& sum : sums_) sum *= (ssd ? 2 : 1) * scale_;
    for (int64_t c = 0; c < s_.channels; ++c)
      for (int64_t row = 0; row < rows_; ++row)
        write_cells(sums_.data() + row * own_row_ + c * tile_.cells, s_.size[2],
                    gradient + ((c * s_.size[0] + i_) * s_.size[1] + j0_ + row) * s_.size[2]);
  }

 private:
  int64_t voxels() const { return s_.size[0] * s_.size[1] * s_.size[2]; }

  void gather_own(const Stored* map) {
    for (int64_t c = 0; c < s_.channels; ++c)
      gather_rows(map + c * voxels(), s_.size, i_, j0_, rows_, own_row_, own_.data() + c * tile_.cells);
  }

  // What the rows are compared with at displacement di along i: zeros, and the answer false, where that plane is outside.
  bool gather_window(const Stored* map, int64_t di) {
    const int64_t i = i_ + (di - s_.radius[0]) * s_.stride, reach = s_.radius[1] * s_.stride;
    for (int64_t c = 0; c < s_.channels; ++c)
      gather_rows(map + c * voxels(), s_.size, i, j0_ - reach, rows_ + 2 * reach, window_row_,
                  window_.data() + c * tile_.pitch + tile_.reach);
    return i >= 0 && i < s_.size[0];
  }

  // visit(base, count) for groups of rows base + n stride: row n sees a window at the displacement along j before that of row n - 1.
  template <class Visit>
  void for_groups(Visit&& visit) const {
    for (int64_t phase = 0; phase < std::min(s_.stride, rows_); ++phase) {
      const int64_t count = (rows_ - phase + s_.stride - 1) / s_.stride;
      for (int64_t n = 0; n < count; n += kRowsAtOnce) visit(phase + n * s_.stride, std::min<int64_t>(kRowsAtOnce, count - n));
    }
  }

  // visit(first, count, window, windows) for the runs of windows that the same rows [first, first + count) of a group see. Window w lies
  // w * stride behind the first that row 0 sees, and is row n's displacement w - n.
  template <class Visit>
  void for_windows(int64_t rows, Visit&& visit) const {
    const auto first = [&](int64_t w) { return std::max<int64_t>(0, w - cells_[1] + 1); };
    const auto last = [&](int64_t w) { return std::min(rows - 1, w); };
    const int64_t windows = cells_[1] + rows - 1;
    for (int64_t w = 0; w < windows;) {
      int64_t end = w + 1;
      while (end < windows && first(end) == first(w) && last(end) == last(w)) ++end;
      visit(first(w), last(w) + 1 - first(w), w, end - w);
      w = end;
    }
  }

  template <bool ssd>
  void forward_rows(int64_t di, int64_t w, int64_t base, int64_t first, int64_t count, Stored* out) {
    constexpr int L = kLaneCount<T>;
    const T *own = own_.data() + (base + first * s_.stride) * own_row_, *window = window_.data() + (base + w * s_.stride) * window_row_;
    in_blocks(cells_[2], [&](int64_t together, int64_t dk) {
      const auto sum = kCompiled<ssd, T>.channels[count - 1][together - 1];
      for (int64_t k = 0; k < tile_.cells; k += L) {
        T sums[kRowsAtOnce * kAtOnce * L];
        sum(own + k, tile_.cells, s_.stride * own_row_, window + dk * s_.stride + k, tile_.pitch, s_.stride, s_.channels, scale_, sums);
        for (int64_t n = 0; n < count; ++n) {
          const int64_t row = first + n, d = (di * cells_[1] + w - row) * cells_[2] + dk;
          Stored* target = out + ((d * s_.size[0] + i_) * s_.size[1] + j0_ + base + row * s_.stride) * s_.size[2] + k;
          for (int64_t x = 0; x < together; ++x)
            write_cells(sums + (n * together + x) * L, std::min<int64_t>(L, s_.size[2] - k), target + x * voxels());
        }
      }
    });
  }

  // The weights of all displacements along j and k for one row: g(d, x), or g(d, x - d) with -d in the place of d.
  void gather_weights(const Stored* grad, int64_t di, int64_t row, int64_t slot, bool second) {
    T* target = weights_.data() + slot * cells_[1] * cells_[2] * tile_.cells;
    for (int64_t dj = 0; dj < cells_[1]; ++dj)
      for (int64_t dk = 0; dk < cells_[2]; ++dk, target += tile_.cells) {
        int64_t d = (di * cells_[1] + dj) * cells_[2] + dk, i = i_, j = j0_ + row, shift = 0;
        if (second) {
          d = s_.displacements() - 1 - d;
          i += (di - s_.radius[0]) * s_.stride;
          j += (dj - s_.radius[1]) * s_.stride;
          shift = (dk - s_.radius[2]) * s_.stride;
        }
        const int64_t nk = s_.size[2], first = std::clamp<int64_t>(-shift, 0, nk),
                      last = j >= 0 && j < s_.size[1] ? std::clamp(nk - shift, first, nk) : first;
        const Stored* source = grad + ((d * s_.size[0] + i) * s_.size[1] + j) * nk + shift;
        std::fill_n(target, first, T(0));
        for (int64_t k = first; k < last; ++k) target[k] = load(source[k]);
        std::fill_n(target + last, nk - last, T(0));
      }
  }

  template <bool ssd>
  void backward_rows(int64_t base, int64_t first, int64_t count, int64_t w, int64_t windows) {
    const int64_t at = (base + first * s_.stride) * own_row_, row_weights = cells_[1] * cells_[2] * tile_.cells;
    const T* window = window_.data() + (base + w * s_.stride) * window_row_;
    const T* weights = weights_.data() + first * row_weights + (w - first) * cells_[2] * tile_.cells;
    const DenseSteps step{s_.stride * own_row_, tile_.cells, s_.stride * window_row_, tile_.pitch,
                          row_weights - cells_[2] * tile_.cells, tile_.cells, s_.stride};
    in_blocks(s_.channels, [&](int64_t together, int64_t c) {
      const auto sum = kCompiled<ssd, T>.displacements[count - 1][together - 1];
      for (int64_t k = 0; k < tile_.cells; k += kLaneCount<T>)
        sum(weights + k, own_.data() + at + c * tile_.cells + k, window + c * tile_.pitch + k, windows, cells_[2], step,
            sums_.data() + at + c * tile_.cells + k);
    });
  }

  const DenseSizes& s_;
  const DenseTile& tile_;
  int64_t own_row_, window_row_, cells_[3], i_ = 0, j0_ = 0, rows_ = 0;
  T scale_;
  std::vector<T> own_, window_, weights_, sums_;
};

// visit(rows, batch item) for all rows.
template <class Stored, class Visit>
void for_rows(const DenseSizes& s, int threads, Visit&& visit) {
  using T = arithmetic<Stored>;
  const DenseTile tile(s, kLaneCount<T>, sizeof(T));
  const Chunks chunks{s.size[1], tile.rows};
  const int64_t tiles = s.batch * s.size[0] * chunks.count();
  if (s.size[2] == 0) return;
  const Chunks jobs{tiles, std::max<int64_t>(1, tiles / kJobs)};
  parallel_for(jobs.count(), threads, [&](int64_t job) {
    DenseRows<Stored> rows(s, tile);
    for (int64_t at = jobs.begin(job); at < jobs.end(job); ++at) {
      const int64_t plane = at / chunks.count();
      rows.move(plane % s.size[0], chunks.begin(at % chunks.count()));
      visit(rows, plane / s.size[0]);
    }
  });
}

}  // namespace

template <class Stored>
void correlate_dense(const Stored* a, const Stored* b, Stored* out, const DenseSizes& s, int threads) {
  const int64_t voxels = s.size[0] * s.size[1] * s.size[2];
  advise_large_pages(out, s.batch * s.displacements() * voxels);
  for_rows<Stored>(s, threads, [&](DenseRows<Stored>& rows, int64_t item) {
    const int64_t at = item * s.channels * voxels;
    Stored* target = out + item * s.displacements() * voxels;
    if (s.ssd) rows.template forward<true>(a + at, b + at, target);
    else rows.template forward<false>(a + at, b + at, target);
  });
}

template <class Stored>
void correlate_dense_backward(const Stored* grad, const Stored* own, const Stored* other, bool second, Stored* gradient,
                              const DenseSizes& s, int threads) {
  const int64_t voxels = s.size[0] * s.size[1] * s.size[2];
  for_rows<Stored>(s, threads, [&](DenseRows<Stored>& rows, int64_t item) {
    const int64_t at = item * s.channels * voxels;
    const Stored* g = grad + item * s.displacements() * voxels;
    if (s.ssd) rows.template backward<true>(g, own + at, other + at, second, gradient + at);
    else rows.template backward<false>(g, own + at, other + at, second, gradient + at);
  });
}

#define REGKIT_INSTANTIATE(S)                                                                   \
  template void correlate_dense<S>(const S*, const S*, S*, const DenseSizes&, int);             \
  template void correlate_dense_backward<S>(const S*, const S*, const S*, bool, S*, const DenseSizes&, int);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
