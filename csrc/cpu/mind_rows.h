// How descriptors lie in memory, and the way of a row of them from and to scratch, where each channel is a row of its own.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/convert.h"
#include "cpu/mind_sweep.h"
#include "cpu/stream.h"

namespace regkit {

constexpr int64_t kInterleaved = 64;  // voxels that are interleaved at a time

// target[k C + c] = rows.row(c)[k] for k < n; reads and writes up to kInterleaved voxels more. Four halves of a voxel are put together as
// one integer: stores of lone halves would be four times as many, and compilers vectorise these loops, not those.
template <int C, class Stored>
inline void interleave(const ScratchRows<Stored>& rows, int64_t n, Stored* target) {
  if constexpr (sizeof(Stored) == 2) {
    static_assert(C % 4 == 0);
    for (int64_t begin = 0; begin < n; begin += kInterleaved) {
      uint64_t quads[kInterleaved][C / 4];
      for (int q = 0; q < C / 4; ++q) {
        uint16_t halves[4][kInterleaved];
        for (int c = 0; c < 4; ++c) std::memcpy(halves[c], rows.row(4 * q + c) + begin, sizeof halves[c]);
        for (int64_t k = 0; k < kInterleaved; ++k)
          quads[k][q] = halves[0][k] | static_cast<uint64_t>(halves[1][k]) << 16 | static_cast<uint64_t>(halves[2][k]) << 32 |
                        static_cast<uint64_t>(halves[3][k]) << 48;
      }
      std::memcpy(target + begin * C, quads, sizeof quads);
    }
  } else {
    for (int64_t k = 0; k < n; ++k)
      for (int c = 0; c < C; ++c) target[k * C + c] = rows.row(c)[k];
  }
}

// Writes rows of descriptors to where they belong; sizes are those of the descriptors.
template <int C, class Stored>
class RowWriter {
 public:
  explicit RowWriter(const MindSizes& s)
      : s_(s),
        streamed_(s.batch * C * s.voxels() * static_cast<int64_t>(sizeof(Stored)) >= kStreamedBytes),
        interleaved_(s.channels_last, (s.size[2] + kInterleaved) * C) {}
  ~RowWriter() { end_stream(); }

  // The row that begins at voxel `at` of a volume.
  void write(const ScratchRows<Stored>& rows, int64_t at, Stored* volume) {
    const int64_t n = s_.size[2];
    if (s_.channels_last) {
      interleave<C>(rows, n, interleaved_.row(0));
      copy(volume + at * C, interleaved_.row(0), n * C);
    } else {
      for (int c = 0; c < C; ++c) copy(volume + c * s_.voxels() + at, rows.row(c), n);
    }
  }

 private:
  void copy(Stored* target, const Stored* source, int64_t elements) const {
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(Stored));
    if (streamed_) stream(target, source, bytes);
    else std::memcpy(target, source, bytes);
  }

  const MindSizes s_;
  bool streamed_;
  ScratchRows<Stored> interleaved_;
};

// rows = the gradients by the descriptors of row (i, j) of an image: of what they are pooled to, their share in it.
template <int C, class Stored, class T>
inline void read_row(const Stored* volume, const MindSizes& s, int64_t i, int64_t j, ScratchRows<T>& rows) {
  const MindSizes stored = s.pooled();
  const int64_t n = stored.size[2], pool = s.pool, step = s.channels_last ? C : 1, pi = i / s.pool_of(0), pj = j / pool;
  const bool pooled_away = pi >= stored.size[0] || pj >= stored.size[1];
  const T share = T(1) / static_cast<T>(s.pool_of(0) * pool * pool);
  const int64_t at = (pi * stored.size[1] + pj) * n;
  for (int c = 0; c < C; ++c) {
    T* row = rows.row(c);
    std::fill_n(row + n * pool, s.size[2] - n * pool, T(0));
    if (pooled_away) {
      std::fill_n(row, n * pool, T(0));
      continue;
    }
    const Stored* source = s.channels_last ? volume + at * C + c : volume + c * stored.voxels() + at;
    for (int64_t k = 0; pool == 1 && k < n; ++k) row[k] = load(source[k * step]);
    for (int64_t k = 0; pool > 1 && k < n; ++k) std::fill_n(row + k * pool, pool, share * load(source[k * step]));
  }
}

}  // namespace regkit
