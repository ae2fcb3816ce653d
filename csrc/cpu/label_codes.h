// Label maps as codes: the place of a voxel's label in the list of wanted ones. See core/soft_dice.h.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/soft_dice.h"
#include "cpu/parallel.h"
#include "cpu/soft_dice.h"

namespace regkit {

// Codes 0 .. labels - 1, then `none` for other labels, then `mixed` for a cell whose corners differ.
template <class Code>
class CodeTable {
 public:
  explicit CodeTable(const std::vector<int64_t>& labels) : none_(static_cast<Code>(labels.size())) {
    if (labels.empty()) return;
    first_ = *std::min_element(labels.begin(), labels.end());
    table_.assign(*std::max_element(labels.begin(), labels.end()) - first_ + 1, none_);
    for (size_t code = 0; code < labels.size(); ++code) table_[labels[code] - first_] = static_cast<Code>(code);
  }

  Code none() const { return none_; }
  Code mixed() const { return static_cast<Code>(none_ + 1); }

  // Codes of the n labels from `offset` on.
  void encode(const void* labels, LabelType type, int64_t offset, int64_t n, Code* out) const {
    switch (type) {
      case LabelType::u8: return encode_as(static_cast<const uint8_t*>(labels) + offset, n, out);
      case LabelType::i8: return encode_as(static_cast<const int8_t*>(labels) + offset, n, out);
      case LabelType::u16: return encode_as(static_cast<const uint16_t*>(labels) + offset, n, out);
      case LabelType::i16: return encode_as(static_cast<const int16_t*>(labels) + offset, n, out);
      case LabelType::i32: return encode_as(static_cast<const int32_t*>(labels) + offset, n, out);
      case LabelType::i64: return encode_as(static_cast<const int64_t*>(labels) + offset, n, out);
    }
  }

 private:
  template <class Label>
  void encode_as(const Label* labels, int64_t n, Code* out) const {
    const uint64_t size = table_.size(), first = static_cast<uint64_t>(first_);
    for (int64_t k = 0; k < n; ++k) {
      const uint64_t at = static_cast<uint64_t>(static_cast<int64_t>(labels[k])) - first;  // huge for labels below the first
      out[k] = at < size ? table_[at] : none_;
    }
  }

  Code none_;
  int64_t first_ = 0;
  std::vector<Code> table_;
};

// The moving map's codes with their margin, and for every cell the code that all its corners have, or `mixed`. Two bytes a voxel for up
// to 254 labels, and they make most samples one load instead of 2^D.
template <int D, Padding padding, class Code>
struct MovingCodes {
  int64_t n[D], padded[D], voxels = 1;
  std::vector<Code> corner, cell;

  template <class T>
  MovingCodes(const SoftDiceCall<T>& call, const CodeTable<Code>& table, int threads) {
    for (int d = 0; d < D; ++d) n[d] = call.moving_size[3 - D + d], padded[d] = n[d] + 2 * kMargin, voxels *= padded[d];
    corner.resize(call.batch * voxels);
    cell.resize(call.batch * voxels);
    const Chunks rows{call.batch * voxels / padded[D - 1], 64};
    parallel_for(rows.count(), threads, [&](int64_t job) {
      for (int64_t r = rows.begin(job); r < rows.end(job); ++r) encode_row(call, table, r);
    });
    parallel_for(rows.count(), threads, [&](int64_t job) {
      for (int64_t r = rows.begin(job); r < rows.end(job); ++r) join_row(table.mixed(), r);
    });
  }

 private:
  template <class T>
  void encode_row(const SoftDiceCall<T>& call, const CodeTable<Code>& table, int64_t row) {
    const int64_t nk = n[D - 1];
    Code* out = corner.data() + row * padded[D - 1];
    int64_t rest = row, source = 0, stride = 1;
    bool inside = nk > 0;
    for (int d = D - 2; d >= 0; --d) {
      int64_t at = rest % padded[d] - kMargin;
      rest /= padded[d];
      if (padding == Padding::border) at = std::clamp<int64_t>(at, 0, n[d] - 1);
      inside &= at >= 0 && at < n[d];
      source += at * stride;
      stride *= n[d];
    }
    if (!inside) return std::fill(out, out + padded[D - 1], table.none());
    table.encode(call.moving, call.moving_type, (rest * stride + source) * nk, nk, out + kMargin);
    std::fill(out, out + kMargin, padding == Padding::border ? out[kMargin] : table.none());
    std::fill(out + kMargin + nk, out + padded[D - 1], padding == Padding::border ? out[kMargin + nk - 1] : table.none());
  }

  // The cell at the end of an axis has no upper corners; no sample falls into it.
  void join_row(Code mixed, int64_t row) {
    const int64_t nk = padded[D - 1], steps[3] = {nk, D == 3 ? nk * padded[D - 2] : 0, D == 3 ? nk * padded[D - 2] + nk : nk};
    Code* out = cell.data() + row * nk;
    const Code* a = corner.data() + row * nk;
    if (row * nk + steps[2] + nk > static_cast<int64_t>(corner.size())) return std::fill(out, out + nk, mixed);
    const Code *b = a + steps[0], *c = a + steps[1], *d = a + steps[2];
    for (int64_t k = 0; k + 1 < nk; ++k) {
      const Code here = a[k], next = a[k + 1];
      const Code differ = (here ^ b[k]) | (here ^ c[k]) | (here ^ d[k]) | (next ^ b[k + 1]) | (next ^ c[k + 1]) | (next ^ d[k + 1]);
      out[k] = differ | (here ^ next) ? mixed : here;
    }
    out[nk - 1] = mixed;
  }
};

}  // namespace regkit
