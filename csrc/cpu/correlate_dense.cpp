// Local correlation of feature maps on the CPU. FLOPs: 2 C a displacement forward and for each gradient, 3 C with ssd: compute-bound.
//
// A job makes some rows of one plane. For each displacement along i it gathers what they are compared with, all channels of the rows they
// reach, into scratch in the L2 cache, with zeros around, so that the loops know no border. Forward, the sums of all displacements along k
// are in registers while the channels go by: one load of b for one product. Backward, the sums of several channels are in registers while
// the displacements go by: the rows of weights are loaded once for all of them. Both gradients are sums over what a voxel was compared
// with, so nothing is scattered and the threads make no difference.
#include "cpu/correlate_dense.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/correlate_dense.h"
#include "cpu/convert.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kScratchBytes = 384 << 10;
constexpr int64_t kJobs = 128;
constexpr int kAtOnce = kVectorBytes == 64 ? 9 : 5;  // displacements, or channels; with two vectors each, they fill the registers

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
  for (int64_t k = 0; k < count; ++k) target[k] = store<Stored>(source[k]);
}

// sums[q][0, V vectors) = sum over channels of term(a, b + q step).
template <bool ssd, int Q, int V, class T>
void sum_channels(const T* a, int64_t a_channel, const T* b, int64_t b_channel, int64_t step, int64_t channels, T scale, T* sums) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> s[Q][V] = {};
  for (int64_t c = 0; c < channels; ++c, a += a_channel, b += b_channel)
    for (int v = 0; v < V; ++v) {
      const Lanes<T> own = load_lanes(a + v * L);
      for (int q = 0; q < Q; ++q) s[q][v] += dense_term<ssd>(own, load_lanes(b + q * step + v * L));
    }
  for (int q = 0; q < Q; ++q)
    for (int v = 0; v < V; ++v) store_lanes(sums + (q * V + v) * L, scale * s[q][v]);
}

// Displacements along j and k: how many, and how far apart what is compared lies.
struct DensePlane {
  int64_t count[2], step[2];
};

// sums[q][0, V vectors) += sum over the displacements of gradient_term(weight, own, other), for Q channels.
template <bool ssd, int Q, int V, class T>
void sum_displacements(const T* weights, int64_t weight_pitch, const T* own, int64_t own_channel, const T* other, int64_t other_channel,
                       const DensePlane& d, T* sums) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> s[Q][V];
  for (int q = 0; q < Q; ++q)
    for (int v = 0; v < V; ++v) s[q][v] = load_lanes(sums + q * own_channel + v * L);
  for (int64_t dj = 0; dj < d.count[0]; ++dj, other += d.step[0]) {
    const T* compared = other;
    for (int64_t dk = 0; dk < d.count[1]; ++dk, weights += weight_pitch, compared += d.step[1])
      for (int v = 0; v < V; ++v) {
        const Lanes<T> weight = load_lanes(weights + v * L);
        for (int q = 0; q < Q; ++q) {
          Lanes<T> mine = {};
          if constexpr (ssd) mine = load_lanes(own + q * own_channel + v * L);
          s[q][v] += dense_gradient_term<ssd>(weight, mine, load_lanes(compared + q * other_channel + v * L));
        }
      }
  }
  for (int q = 0; q < Q; ++q)
    for (int v = 0; v < V; ++v) store_lanes(sums + q * own_channel + v * L, s[q][v]);
}

// Calls f<Q>(first, ...) for [0, count) in blocks of nearly equal size, at most kAtOnce.
template <class Function>
void in_blocks(int64_t count, Function&& f) {
  const int64_t blocks = (count + kAtOnce - 1) / kAtOnce;
  for (int64_t block = 0, at = 0; block < blocks; ++block) {
    const int64_t size = (count - at + blocks - block - 1) / (blocks - block);
    switch (size) {
      case 1: f(std::integral_constant<int, 1>(), at); break;
      case 2: f(std::integral_constant<int, 2>(), at); break;
      case 3: f(std::integral_constant<int, 3>(), at); break;
      case 4: f(std::integral_constant<int, 4>(), at); break;
      case 5: f(std::integral_constant<int, 5>(), at); break;
      case 6: f(std::integral_constant<int, std::min(6, kAtOnce)>(), at); break;
      case 7: f(std::integral_constant<int, std::min(7, kAtOnce)>(), at); break;
      case 8: f(std::integral_constant<int, std::min(8, kAtOnce)>(), at); break;
      default: f(std::integral_constant<int, kAtOnce>(), at); break;
    }
    at += size;
  }
}

// f<V>(k) for the vectors of a row, two at a time.
template <class T, class Function>
void in_vectors(int64_t cells, Function&& f) {
  constexpr int64_t L = kLaneCount<T>;
  for (int64_t k = 0; k < cells; k += 2 * L) {
    if (cells - k > L) f(std::integral_constant<int, 2>(), k);
    else f(std::integral_constant<int, 1>(), k);
  }
}

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
      const bool inside = gather_window(b, di, ssd);
      for (int64_t row = 0; row < rows_; ++row)
        for (int64_t dj = 0; dj < cells_[1]; ++dj) {
          const int64_t j = j0_ + row + (dj - s_.radius[1]) * s_.stride;
          forward_row<ssd>(di, dj, row, !ssd && (!inside || j < 0 || j >= s_.size[1]), out);
        }
    }
  }

  // second: own is b, other is a.
  template <bool ssd>
  void backward(const Stored* grad, const Stored* own, const Stored* other, bool second, Stored* gradient) {
    if (ssd) gather_own(own);
    sums_.assign(tile_.rows * own_row_, T(0));
    weights_.assign(cells_[1] * cells_[2] * tile_.cells, T(0));
    for (int64_t di = 0; di < cells_[0]; ++di) {
      // Outside, own voxels are compared with zeros (which has no gradient but ssd's), or with nothing.
      const bool outside_too = ssd && !second;
      if (!gather_window(other, di, outside_too) && !outside_too) continue;
      for (int64_t row = 0; row < rows_; ++row) {
        for (int64_t dj = 0; dj < cells_[1]; ++dj) gather_weights(grad, di, dj, row, second);
        backward_row<ssd>(row);
      }
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

  // What the rows are compared with at displacement di along i; false where that plane is outside, and then only if wanted.
  bool gather_window(const Stored* map, int64_t di, bool outside_too) {
    const int64_t i = i_ + (di - s_.radius[0]) * s_.stride, reach = s_.radius[1] * s_.stride;
    const bool inside = i >= 0 && i < s_.size[0];
    for (int64_t c = 0; c < s_.channels && (inside || outside_too); ++c)
      gather_rows(map + c * voxels(), s_.size, i, j0_ - reach, rows_ + 2 * reach, window_row_,
                  window_.data() + c * tile_.pitch + tile_.reach);
    return inside;
  }

  template <bool ssd>
  void forward_row(int64_t di, int64_t dj, int64_t row, bool zero, Stored* out) {
    constexpr int L = kLaneCount<T>;
    const T *own = own_.data() + row * own_row_, *window = window_.data() + (row + dj * s_.stride) * window_row_;
    Stored* target = out + (((di * cells_[1] + dj) * cells_[2] * s_.size[0] + i_) * s_.size[1] + j0_ + row) * s_.size[2];
    if (zero) {
      for (int64_t dk = 0; dk < cells_[2]; ++dk)
        for (int64_t k = 0; k < s_.size[2]; ++k) target[dk * voxels() + k] = store<Stored>(T(0));
      return;
    }
    in_blocks(cells_[2], [&](auto q, int64_t dk) {
      in_vectors<T>(tile_.cells, [&](auto v, int64_t k) {
        constexpr int Q = decltype(q)::value, V = decltype(v)::value;
        T sums[Q * V * L];
        sum_channels<ssd, Q, V>(own + k, tile_.cells, window + dk * s_.stride + k, tile_.pitch, s_.stride, s_.channels, scale_, sums);
        const int64_t count = std::min<int64_t>(V * L, s_.size[2] - k);
        for (int n = 0; n < Q; ++n) write_cells(sums + n * V * L, count, target + (dk + n) * voxels() + k);
      });
    });
  }

  // The weights of all displacements along k for one row: g(d, x), or g(d, x - d) with -d in the place of d.
  void gather_weights(const Stored* grad, int64_t di, int64_t dj, int64_t row, bool second) {
    for (int64_t dk = 0; dk < cells_[2]; ++dk) {
      T* target = weights_.data() + (dj * cells_[2] + dk) * tile_.cells;
      int64_t d = (di * cells_[1] + dj) * cells_[2] + dk, i = i_, j = j0_ + row, shift = 0;
      if (second) {
        d = s_.displacements() - 1 - d;
        i += (di - s_.radius[0]) * s_.stride;
        j += (dj - s_.radius[1]) * s_.stride;
        shift = (dk - s_.radius[2]) * s_.stride;
      }
      const bool inside = j >= 0 && j < s_.size[1];
      const Stored* source = grad + ((d * s_.size[0] + i) * s_.size[1] + j) * s_.size[2] + shift;
      const int64_t first = std::clamp<int64_t>(-shift, 0, s_.size[2]), last = inside ? std::clamp(s_.size[2] - shift, first, s_.size[2]) : first;
      std::fill_n(target, first, T(0));
      for (int64_t k = first; k < last; ++k) target[k] = load(source[k]);
      std::fill_n(target + last, s_.size[2] - last, T(0));
    }
  }

  template <bool ssd>
  void backward_row(int64_t row) {
    const T *own = own_.data() + row * own_row_, *window = window_.data() + row * window_row_;
    T* sums = sums_.data() + row * own_row_;
    const DensePlane plane{{cells_[1], cells_[2]}, {s_.stride * window_row_, s_.stride}};
    in_blocks(s_.channels, [&](auto q, int64_t c) {
      in_vectors<T>(tile_.cells, [&](auto v, int64_t k) {
        constexpr int Q = decltype(q)::value, V = decltype(v)::value;
        sum_displacements<ssd, Q, V>(weights_.data() + k, tile_.cells, own + c * tile_.cells + k, tile_.cells,
                                     window + c * tile_.pitch + k, tile_.pitch, plane, sums + c * tile_.cells + k);
      });
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
void correlate_dense_backward(const Stored* grad, const Stored* own, const Stored* other, bool second, Stored* gradient, const DenseSizes& s,
                              int threads) {
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
