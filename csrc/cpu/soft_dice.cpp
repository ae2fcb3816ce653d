// Overlap of label maps on the CPU. Bytes a voxel (3-D, one byte a label, float32): sums 12 (u) + 1 + 1 (labels) = 14; gradient 14 + 12
// = 26; and 4 for the moving map's codes (label_codes.h), made anew by both.
//
// Positions are found a block of kLanes samples at a time in vector code. A sample whose cell has one code adds one count, to integers;
// only the others, at the borders between labels, have their 2^D corners loaded and weighed. A job is some rows of one batch item, the same
// rows for any number of threads, with sums of its own, which are added in order.
#include "cpu/soft_dice.h"

#include <algorithm>
#include <limits>

#include "core/soft_dice.h"
#include "cpu/label_codes.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kJobsPerItem = 64;

// Samples of a block: the offsets of their lower cells, weights of the upper ones, and the slopes of these.
template <int D, class T>
struct Block {
  alignas(64) int64_t offset[kLanes];
  alignas(64) T fraction[D][kLanes], slope[D][kLanes];
  bool nan;
};

template <int D, Padding padding, class Code, class T>
class Overlap {
 public:
  Overlap(const SoftDiceCall<T>& call, int threads)
      : call_(call), table_(call.labels), moving_(call, table_, threads), rows_(call.size[0] * call.size[1]) {
    for (int corner = 0; corner < kCorners; ++corner) {
      step_[corner] = 0;
      for (int d = 0; d < D; ++d) step_[corner] = step_[corner] * moving_.padded[d] + (corner >> (D - 1 - d) & 1);
    }
  }

  void sums(double* sums, int threads) const {
    const Chunks chunks = jobs();
    const int64_t labels = table_.none();
    std::vector<double> parts(call_.batch * chunks.count() * 3 * labels);
    parallel_for(call_.batch * chunks.count(), threads, [&](int64_t job) {
      Tally tally(labels + 2);
      count_rows(job / chunks.count(), chunks.begin(job % chunks.count()), chunks.end(job % chunks.count()), tally);
      double* part = parts.data() + job * 3 * labels;
      for (int64_t l = 0; l < labels; ++l) {
        part[l] = tally.both[l] + static_cast<double>(tally.both_whole[l]);
        part[labels + l] = tally.warped[l] + static_cast<double>(tally.warped_whole[l]);
        part[2 * labels + l] = static_cast<double>(tally.still[l]);
      }
      if (tally.nan) std::fill(part, part + 3 * labels, std::numeric_limits<double>::quiet_NaN());
    });
    std::fill(sums, sums + call_.batch * 3 * labels, 0.0);
    for (int64_t b = 0; b < call_.batch; ++b)
      for (int64_t job = 0; job < chunks.count(); ++job)
        for (int64_t x = 0; x < 3 * labels; ++x) sums[b * 3 * labels + x] += parts[(b * chunks.count() + job) * 3 * labels + x];
  }

  void gradient(const T* tables, T* grad, int threads) const {
    const Chunks chunks = jobs();
    const int64_t labels = table_.none();
    parallel_for(call_.batch * chunks.count(), threads, [&](int64_t job) {
      const int64_t b = job / chunks.count();
      std::vector<T> both(labels + 1, T(0)), warped(labels + 1, T(0));
      std::copy_n(tables + 2 * b * labels, labels, both.begin());
      std::copy_n(tables + (2 * b + 1) * labels, labels, warped.begin());
      T poison = 0;
      for (int64_t x = 0; x < 2 * labels; ++x) poison += 0 * tables[2 * b * labels + x];
      grad_rows(b, chunks.begin(job % chunks.count()), chunks.end(job % chunks.count()), both.data(), warped.data(), poison, grad);
    });
  }

 private:
  static constexpr int kCorners = 1 << D;

  struct Tally {
    explicit Tally(int64_t codes) : both_whole(codes), warped_whole(codes), still(codes), both(codes), warped(codes) {}
    std::vector<int64_t> both_whole, warped_whole, still;
    std::vector<double> both, warped;
    bool nan = false;
  };

  Chunks jobs() const { return {rows_, std::max<int64_t>(1, (rows_ + kJobsPerItem - 1) / kJobsPerItem)}; }

  // Calls visit(k0, lanes, block) along one row of samples.
  template <class Visit>
  void for_blocks(int64_t b, int64_t row, Visit&& visit) const {
    const int64_t nk = call_.size[2], voxels = rows_ * nk;
    const T voxel[3] = {static_cast<T>(row / call_.size[1]), static_cast<T>(row % call_.size[1]), T(0)};
    Block<D, T> block;
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      int32_t nan[kLanes] = {};
      for (int d = 0; d < D; ++d) {
        const T* u = call_.displacement + (b * D + d) * voxels + row * nk + k0;
        const int32_t n = static_cast<int32_t>(moving_.n[d]);
        alignas(64) T c[kLanes];
        if (lanes == kLanes) {
          for (int l = 0; l < kLanes; ++l) c[l] = u[l];
        } else {
          for (int l = 0; l < kLanes; ++l) c[l] = l < lanes ? u[l] : T(0);
        }
        for (int l = 0; l < kLanes; ++l) c[l] += d == D - 1 ? static_cast<T>(k0 + l) : voxel[3 - D + d];
        for (int l = 0; l < kLanes; ++l) {
          const CodeSample<T> s = code_sample<padding>(c[l], n);
          block.offset[l] = d == 0 ? s.low : block.offset[l] * moving_.padded[d] + s.low;
          block.fraction[d][l] = s.fraction;
          block.slope[d][l] = s.slope;
          nan[l] |= c[l] != c[l];
        }
      }
      block.nan = false;
      for (int l = 0; l < kLanes; ++l) block.nan |= nan[l] != 0;
      visit(k0, lanes, block);
    }
  }

  void count_rows(int64_t b, int64_t begin, int64_t end, Tally& tally) const {
    const int64_t nk = call_.size[2];
    const Code *cell = moving_.cell.data() + b * moving_.voxels, *corner = moving_.corner.data() + b * moving_.voxels;
    const Code mixed = table_.mixed();
    std::vector<Code> fixed(nk + kLanes);
    for (int64_t row = begin; row < end; ++row) {
      table_.encode(call_.fixed, call_.fixed_type, (b * rows_ + row) * nk, nk, fixed.data());
      for (int64_t k = 0; k < nk; ++k) ++tally.still[fixed[k]];
      for_blocks(b, row, [&](int64_t k0, int lanes, const Block<D, T>& block) {
        tally.nan |= block.nan;
        for (int l = 0; l < lanes; ++l) {
          const Code code = cell[block.offset[l]], f = fixed[k0 + l];
          if (code != mixed) {
            ++tally.warped_whole[code];
            tally.both_whole[code] += code == f;
          } else {
            T fraction[D], weight[kCorners], both = 0;
            for (int d = 0; d < D; ++d) fraction[d] = block.fraction[d][l];
            corner_weights(fraction, weight);
            for (int i = 0; i < kCorners; ++i) {
              const Code at = corner[block.offset[l] + step_[i]];
              tally.warped[at] += weight[i];
              both += at == f ? weight[i] : T(0);
            }
            tally.both[f] += both;
          }
        }
      });
    }
  }

  void grad_rows(int64_t b, int64_t begin, int64_t end, const T* both, const T* warped, T poison, T* grad) const {
    const int64_t nk = call_.size[2], voxels = rows_ * nk;
    const Code *cell = moving_.cell.data() + b * moving_.voxels, *corner = moving_.corner.data() + b * moving_.voxels;
    const Code mixed = table_.mixed();
    std::vector<Code> fixed(nk);
    for (int64_t row = begin; row < end; ++row) {
      T* out[D];
      for (int d = 0; d < D; ++d) {
        out[d] = grad + (b * D + d) * voxels + row * nk;
        std::fill(out[d], out[d] + nk, poison);
      }
      if (poison != 0) continue;
      table_.encode(call_.fixed, call_.fixed_type, (b * rows_ + row) * nk, nk, fixed.data());
      for_blocks(b, row, [&](int64_t k0, int lanes, const Block<D, T>& block) {
        for (int l = 0; l < lanes; ++l) {
          if (cell[block.offset[l]] != mixed) continue;
          const Code f = fixed[k0 + l];
          T fraction[D], value[kCorners], slope[D];
          for (int d = 0; d < D; ++d) fraction[d] = block.fraction[d][l];
          for (int i = 0; i < kCorners; ++i) {
            const Code at = corner[block.offset[l] + step_[i]];
            value[i] = warped[at] + (at == f ? both[at] : T(0));
          }
          corner_slopes(fraction, value, slope);
          for (int d = 0; d < D; ++d) out[d][k0 + l] = block.slope[d][l] * slope[d];
        }
      });
    }
  }

  const SoftDiceCall<T>& call_;
  CodeTable<Code> table_;
  MovingCodes<D, padding, Code> moving_;
  int64_t rows_, step_[kCorners];
};

template <class T, class Run>
void specialise(const SoftDiceCall<T>& call, int threads, Run&& run) {
  const auto with_code = [&](auto dims, auto pad) {
    if (call.labels.size() <= 254) run(Overlap<dims.value, pad.value, uint8_t, T>(call, threads));
    else run(Overlap<dims.value, pad.value, uint16_t, T>(call, threads));
  };
  const auto with_padding = [&](auto dims) {
    if (static_cast<Padding>(call.padding) == Padding::border) with_code(dims, std::integral_constant<Padding, Padding::border>{});
    else with_code(dims, std::integral_constant<Padding, Padding::zeros>{});
  };
  if (call.dims == 3) with_padding(std::integral_constant<int, 3>{});
  else with_padding(std::integral_constant<int, 2>{});
}

}  // namespace

template <class T>
void soft_dice(const SoftDiceCall<T>& call, double* sums, int threads) {
  specialise(call, threads, [&](const auto& overlap) { overlap.sums(sums, threads); });
}

template <class T>
void soft_dice_grad(const SoftDiceCall<T>& call, const T* tables, T* grad_displacement, int threads) {
  advise_large_pages(grad_displacement, call.batch * call.dims * call.size[0] * call.size[1] * call.size[2]);
  specialise(call, threads, [&](const auto& overlap) { overlap.gradient(tables, grad_displacement, threads); });
}

template void soft_dice<float>(const SoftDiceCall<float>&, double*, int);
template void soft_dice<double>(const SoftDiceCall<double>&, double*, int);
template void soft_dice_grad<float>(const SoftDiceCall<float>&, const float*, float*, int);
template void soft_dice_grad<double>(const SoftDiceCall<double>&, const double*, double*, int);

}  // namespace regkit
