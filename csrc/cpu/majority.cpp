// Majority warp on the CPU. Bytes a voxel (3-D, one byte a label): 12 (u) + 1 (labels, cached) + 1 (out) = 14.
//
// Most samples lie among 2^D equal labels, which settles them: a vote is held for the others alone. Blocks of samples that are all inside
// the image find their cells in vector code (warp_interior.h) and load them as pairs; the rest goes sample by sample.
#include "cpu/majority.h"

#include <cstring>
#include <type_traits>

#include "core/majority.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "cpu/warp_interior.h"

namespace regkit {
namespace {

// Two neighbouring labels as one number.
template <class Label>
using Pair = std::conditional_t<sizeof(Label) == 1, uint16_t, std::conditional_t<sizeof(Label) == 2, uint32_t,
             std::conditional_t<sizeof(Label) == 4, uint64_t, unsigned __int128>>>;

constexpr int kLanes = 16;
constexpr int64_t kRowsPerJob = 64;

template <class Index, int D, class Label>
class Voter {
 public:
  Voter(const Label* labels, const WarpSizes& s, Label fill, Label order) : labels_(labels), s_(s), fill_(fill), order_(order) {
    for (int d = 0; d < D; ++d) n_[d] = s.image[3 - D + d];
    for (int corner = 0; corner < kCorners; ++corner) {
      step_[corner] = 0;
      for (int d = 0; d < D; ++d) step_[corner] = step_[corner] * n_[d] + (corner >> (D - 1 - d) & 1);
    }
  }

  // One row of samples: u has one pointer an axis, origin the voxel that the row starts at.
  template <Padding padding>
  void row(const float* const (&u)[D], float (&origin)[D], int64_t nk, int64_t batch, Label* out) {
    const int64_t plane = batch * s_.channels;
    Block block;
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const float* at[D];
      for (int d = 0; d < D; ++d) at[d] = u[d] + k0;
      origin[D - 1] = static_cast<float>(k0);
      if (nk - k0 >= kLanes && locate_interior(block, at, origin, n_)) {
        for (int64_t c = 0; c < s_.channels; ++c)
          interior(block, labels_ + (plane + c) * s_.image_voxels(), out + c * s_.output_voxels() + k0);
      } else {
        for (int64_t k = k0; k < nk && k < k0 + kLanes; ++k) {
          float position[D];
          for (int d = 0; d < D; ++d) position[d] = (d == D - 1 ? static_cast<float>(k) : origin[d]) + u[d][k];
          for (int64_t c = 0; c < s_.channels; ++c)
            out[c * s_.output_voxels() + k] = anywhere<padding>(labels_ + (plane + c) * s_.image_voxels(), position);
        }
      }
    }
  }

 private:
  static constexpr int kCorners = 1 << D;
  using Block = InteriorBlock<D, kLanes, Index, float>;

  // Labels go out at the end of a block: a store of bytes may alias anything, and would make the loop load everything anew.
  void interior(const Block& block, const Label* __restrict labels, Label* __restrict out) const {
    Label result[kLanes];
    int32_t open[kLanes], count = 0;
    for (int l = 0; l < kLanes; ++l) {
      Pair<Label> row[kCorners / 2];
      for (int r = 0; r < kCorners / 2; ++r) std::memcpy(&row[r], labels + block.offset[l] + step_[2 * r], sizeof row[r]);
      Label label[2];
      std::memcpy(label, &row[0], sizeof label);
      Pair<Label> mixed = static_cast<Label>(label[0] ^ label[1]);
      for (int r = 1; r < kCorners / 2; ++r) mixed |= row[r] ^ row[0];
      result[l] = label[0];
      open[count] = l;
      count += mixed != 0;
    }
    for (int32_t o = 0; o < count; ++o) result[open[o]] = vote(block, labels, open[o]);
    std::memcpy(out, result, sizeof result);
  }

  Label vote(const Block& block, const Label* labels, int l) const {
    int32_t upper[D];
    int64_t votes[kCorners];
    Label label[kCorners];
    for (int corner = 0; corner < kCorners; ++corner) label[corner] = labels[block.offset[l] + step_[corner]];
    for (int d = 0; d < D; ++d) upper[d] = upper_votes(block.f[d][l]);
    corner_votes(upper, votes);
    return majority(label, votes, order_);
  }

  template <Padding padding>
  Label anywhere(const Label* labels, const float (&position)[D]) const {
    AxisVotes axis[D];
    int32_t upper[D];
    for (int d = 0; d < D; ++d) {
      axis[d] = axis_votes<padding>(position[d], static_cast<int32_t>(n_[d]));
      upper[d] = axis[d].upper;
    }
    Label label[kCorners];
    int64_t votes[kCorners];
    for (int corner = 0; corner < kCorners; ++corner) {
      int64_t offset = 0;
      bool inside = true;
      for (int d = 0; d < D; ++d) {
        const int32_t cell = axis[d].cell[corner >> (D - 1 - d) & 1];
        inside &= cell >= 0;
        offset = offset * n_[d] + cell;
      }
      label[corner] = inside ? labels[offset] : fill_;
    }
    corner_votes(upper, votes);
    return majority(label, votes, order_);
  }

  const Label* labels_;
  const WarpSizes& s_;
  Label fill_, order_;
  int64_t n_[D], step_[kCorners];
};

template <class Index, int D, Padding padding, class Label>
void warp_rows(const Label* labels, const float* u, Label* out, const WarpSizes& s, Label fill, Label order, int64_t begin, int64_t end) {
  const int64_t rows = s.output[0] * s.output[1], voxels = s.output_voxels();
  Voter<Index, D, Label> voter(labels, s, fill, order);
  for (int64_t r = begin; r < end; ++r) {
    const int64_t batch = r / rows, at = r % rows;
    const float voxel[3] = {static_cast<float>(at / s.output[1]), static_cast<float>(at % s.output[1]), 0.f};
    const float* axes[D];
    float origin[D];
    for (int d = 0; d < D; ++d) axes[d] = u + (batch * D + d) * voxels + at * s.output[2], origin[d] = voxel[3 - D + d];
    voter.template row<padding>(axes, origin, s.output[2], batch, out + batch * s.channels * voxels + at * s.output[2]);
  }
}

}  // namespace

template <class Label>
void warp_majority(const Label* labels, const float* displacement, Label* out, const WarpSizes& s, int padding, Label fill, Label order,
                   int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  const Chunks chunks{s.batch * s.output[0] * s.output[1], kRowsPerJob};
  const auto run = [&](auto dims, auto pad) {
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      const bool wide = s.image_voxels() >= (int64_t(1) << 31);
      const auto rows = wide ? warp_rows<int64_t, dims.value, pad.value, Label> : warp_rows<int32_t, dims.value, pad.value, Label>;
      rows(labels, displacement, out, s, fill, order, chunks.begin(job), chunks.end(job));
    });
  };
  const auto with_padding = [&](auto dims) {
    switch (static_cast<Padding>(padding)) {
      case Padding::zeros: return run(dims, std::integral_constant<Padding, Padding::zeros>{});
      case Padding::border: return run(dims, std::integral_constant<Padding, Padding::border>{});
      case Padding::extent: return run(dims, std::integral_constant<Padding, Padding::extent>{});
    }
  };
  if (s.dims == 3) with_padding(std::integral_constant<int, 3>{});
  else with_padding(std::integral_constant<int, 2>{});
}

template void warp_majority<uint8_t>(const uint8_t*, const float*, uint8_t*, const WarpSizes&, int, uint8_t, uint8_t, int);
template void warp_majority<uint16_t>(const uint16_t*, const float*, uint16_t*, const WarpSizes&, int, uint16_t, uint16_t, int);
template void warp_majority<uint32_t>(const uint32_t*, const float*, uint32_t*, const WarpSizes&, int, uint32_t, uint32_t, int);
template void warp_majority<uint64_t>(const uint64_t*, const float*, uint64_t*, const WarpSizes&, int, uint64_t, uint64_t, int);

}  // namespace regkit
