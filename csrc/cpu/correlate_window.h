// What the correlation kernels of one keypoint work on: the window of the moving image that its search reads, gathered into scratch.
//
// Along one axis, displacement stride*a (|a| <= r) and patch offset o = patch_stride*q (|q| <= R) read position stride*a + o. With o =
// stride*shift + phase, 0 <= phase < stride, all displacements of one patch sample are consecutive cells of the lattice `stride*t + phase`.
// The window of a phase is that lattice, so that a patch sample is a shift into it, whatever the two strides; a stride that divides the
// patch stride has one phase.
//
// Displacements are addressed at the window's pitch: cell (a, b, c) of the search at (a*W1 + b)*W2 + c. A patch sample is then one constant
// offset, and loops run over whole planes at once; the few cells between the rows' ends come out as garbage, which is cheaper than ending
// vectors at each row.
#pragma once
#include <algorithm>
#include <vector>

#include "cpu/convert.h"
#include "cpu/correlate.h"

namespace regkit {

struct Tap {
  int64_t patch, shift;  // which sample of the patch, its offset in the window
};

struct Phase {
  int64_t offset[3];
  std::vector<Tap> taps;
};

struct SearchLayout {
  int64_t search[3], window[3], first[3];  // cells of the search and the window; lattice index of the window's first cell
  int64_t stride, patch_stride, patch_radius[3];
  int64_t patch_count, displacements, window_size;
  int64_t planes, length;  // the search as `planes` runs of `length` cells at the window's pitch
  std::vector<Phase> phases;

  explicit SearchLayout(const CorrelateSizes& s) : stride(s.stride), patch_stride(s.patch_stride) {
    std::vector<int64_t> phase_of[3], shift_of[3], offsets[3];
    for (int d = 0; d < 3; ++d) {
      patch_radius[d] = s.patch_radius[d];
      search[d] = 2 * s.search_radius[d] + 1;
      for (int64_t q = -patch_radius[d]; q <= patch_radius[d]; ++q) {
        const int64_t o = q * patch_stride, phase = ((o % stride) + stride) % stride;
        phase_of[d].push_back(phase);
        shift_of[d].push_back((o - phase) / stride);
        if (std::find(offsets[d].begin(), offsets[d].end(), phase) == offsets[d].end()) offsets[d].push_back(phase);
      }
      std::sort(offsets[d].begin(), offsets[d].end());
      const int64_t lowest = shift_of[d].front(), span = shift_of[d].back() - lowest;
      for (int64_t& shift : shift_of[d]) shift -= lowest;
      window[d] = search[d] + span;
      first[d] = lowest - s.search_radius[d];
    }
    patch_count = static_cast<int64_t>(phase_of[0].size() * phase_of[1].size() * phase_of[2].size());
    displacements = search[0] * search[1] * search[2];
    window_size = window[0] * window[1] * window[2];
    const bool gapless = window[1] == search[1] && window[2] == search[2];
    planes = gapless ? 1 : search[0];
    length = gapless ? displacements : (search[1] - 1) * window[2] + search[2];
    for (int64_t pi : offsets[0])
      for (int64_t pj : offsets[1])
        for (int64_t pk : offsets[2]) {
          Phase phase{{pi, pj, pk}, {}};
          int64_t patch = 0;
          for (size_t i = 0; i < phase_of[0].size(); ++i)
            for (size_t j = 0; j < phase_of[1].size(); ++j)
              for (size_t k = 0; k < phase_of[2].size(); ++k, ++patch)
                if (phase_of[0][i] == pi && phase_of[1][j] == pj && phase_of[2][k] == pk)
                  phase.taps.push_back({patch, (shift_of[0][i] * window[1] + shift_of[1][j]) * window[2] + shift_of[2][k]});
          phases.push_back(std::move(phase));
        }
  }

  int64_t plane_cells() const { return window[1] * window[2]; }
};

inline int64_t clamp_index(int64_t x, int64_t n) { return x < 0 ? 0 : (x < n ? x : n - 1); }

// The position of a keypoint as (i, j, k); i = 0 in 2-D.
struct Position {
  int64_t at[3] = {0, 0, 0};
  Position(const int64_t* coordinates, int dims) { std::copy_n(coordinates, dims, at + 3 - dims); }
};

// Keypoints in the order of the cells of 8^3 voxels that their centres lie in: neighbours read the same cache lines one after the other.
inline std::vector<int64_t> by_locality(const int64_t* centers, const CorrelateSizes& s) {
  struct Entry {
    int64_t key[4], index;
    bool operator<(const Entry& other) const {
      for (int d = 0; d < 4; ++d)
        if (key[d] != other.key[d]) return key[d] < other.key[d];
      return index < other.index;
    }
  };
  std::vector<Entry> entries(s.batch * s.keypoints);
  for (int64_t n = 0; n < s.batch * s.keypoints; ++n) {
    const Position p(centers + n * s.dims, s.dims);
    entries[n] = {{n / s.keypoints, p.at[0] >> 3, p.at[1] >> 3, p.at[2] >> 3}, n};
  }
  std::sort(entries.begin(), entries.end());
  std::vector<int64_t> order(entries.size());
  std::transform(entries.begin(), entries.end(), order.begin(), [](const Entry& e) { return e.index; });
  return order;
}

// Copies n values that lie `stride` apart; may write up to a vector more. `end` is the end of the array that source lies in.
template <class Stored>
inline void copy_strided(const Stored* source, const Stored* end, int64_t stride, arithmetic<Stored>* target, int64_t n) {
  using T = arithmetic<Stored>;
  if (stride == 1) {
    int64_t k = 0;
    if (end - source >= n + kLaneCount<T>)
      for (; k < n; k += kLaneCount<T>) store_lanes(target + k, load_as_lanes(source + k));
    for (; k < n; ++k) target[k] = load(source[k]);
  } else if (stride == 2) {
    for (int64_t k = 0; k < n; ++k) target[k] = load(source[2 * k]);
  } else {
    for (int64_t k = 0; k < n; ++k) target[k] = load(source[stride * k]);
  }
}

// One batch item of features: where a voxel's channel lies, and the end of the whole array.
template <class Stored>
struct FeatureImage {
  const Stored *data, *array_end;
  int64_t size[3], voxel_step, channel_step;

  FeatureImage(const Features<Stored>& features, const int64_t* spatial, int64_t batch, int64_t channels, int64_t item) {
    std::copy_n(spatial, 3, size);
    const int64_t voxels = size[0] * size[1] * size[2];
    data = features.data + item * channels * voxels;
    array_end = features.data + batch * channels * voxels;
    voxel_step = features.channels_last ? channels : 1;
    channel_step = features.channels_last ? 1 : voxels;
  }

  const Stored* row(int64_t channel, int64_t i, int64_t j) const {
    return data + channel * channel_step + (clamp_index(i, size[0]) * size[1] + clamp_index(j, size[1])) * size[2] * voxel_step;
  }
};

// The cells of a row of consecutive voxels from `start` that lie in an image of `size` voxels: `count` voxels from `first`, the cells from
// `offset`. Where none does it is the cell and the voxel nearest to each other.
struct RowSpan {
  int64_t first, count, offset;
  RowSpan(int64_t start, int64_t cells, int64_t size)
      : first(clamp_index(start, size)),
        count(clamp_index(start + cells - 1, size) + 1 - first),
        offset(clamp_index(first - start, cells)) {}
};

// Gathers planes [begin, end) of the window of one phase around `center` from one channel; cells outside the image repeat its border.
// Rows are written in ascending order, up to a vector beyond the last.
template <class Stored>
void gather_window(const SearchLayout& layout, const Phase& phase, const FeatureImage<Stored>& image, int64_t channel,
                   const Position& center, int64_t begin, int64_t end, arithmetic<Stored>* target) {
  const int64_t stride = layout.stride, nk = layout.window[2], size = image.size[2], step = image.voxel_step;
  int64_t start[3];
  for (int d = 0; d < 3; ++d) start[d] = center.at[d] + stride * layout.first[d] + phase.offset[d];
  // Cells [inside, outside) of a row lie in the image.
  const int64_t inside = start[2] >= 0 ? 0 : std::min(nk, (-start[2] + stride - 1) / stride);
  const int64_t outside = start[2] >= size ? inside : std::clamp((size - 1 - start[2]) / stride + 1, inside, nk);
  for (int64_t i = begin; i < end; ++i)
    for (int64_t j = 0; j < layout.window[1]; ++j, target += nk) {
      const Stored* row = image.row(channel, start[0] + stride * i, start[1] + stride * j);
      for (int64_t k = 0; k < inside; ++k) target[k] = load(row[0]);
      if (inside < outside)
        copy_strided(row + (start[2] + stride * inside) * step, image.array_end, stride * step, target + inside, outside - inside);
      for (int64_t k = outside; k < nk; ++k) target[k] = load(row[(size - 1) * step]);
    }
}

// The patch of `channels` around a keypoint, (channels, patch samples).
template <class Stored>
void gather_patch(const SearchLayout& layout, const FeatureImage<Stored>& image, int64_t first_channel, int64_t channels,
                  const Position& keypoint, arithmetic<Stored>* target) {
  const int64_t step = layout.patch_stride, *r = layout.patch_radius;
  for (int64_t c = first_channel; c < first_channel + channels; ++c)
    for (int64_t i = -r[0]; i <= r[0]; ++i)
      for (int64_t j = -r[1]; j <= r[1]; ++j) {
        const Stored* row = image.row(c, keypoint.at[0] + step * i, keypoint.at[1] + step * j);
        for (int64_t k = -r[2]; k <= r[2]; ++k)
          *target++ = load(row[clamp_index(keypoint.at[2] + step * k, image.size[2]) * image.voxel_step]);
      }
}

}  // namespace regkit
