// How a row of descriptors lies in memory, and its way from and to scratch, where each channel is a row of its own.
#pragma once
#include <cstdint>
#include <cstring>

#include "cpu/mind_sweep.h"
#include "cpu/storage.h"

namespace regkit {

constexpr int64_t kRowBlock = 64;  // scratch rows are read in blocks of so many voxels

// Descriptors of two bytes, channels last. Four channels of a voxel are put together as one integer: stores of lone halves would be four
// times as many, and compilers vectorise these loops, not those.
template <int C, class Stored, class T>
inline void write_halves_last(const ScratchRows<T>& rows, int64_t n, Stored* target) {
  static_assert(sizeof(Stored) == 2 && C % 4 == 0);
  constexpr int kQuads = C / 4;
  for (int64_t begin = 0; begin < n; begin += kRowBlock) {
    uint64_t quads[kRowBlock * kQuads];
    for (int q = 0; q < kQuads; ++q) {
      Stored halves[4][kRowBlock];
      uint16_t bits[4][kRowBlock];
      for (int c = 0; c < 4; ++c)
        for (int64_t k = 0; k < kRowBlock; ++k) halves[c][k] = store<Stored>(rows.row(4 * q + c)[begin + k]);
      std::memcpy(bits, halves, sizeof bits);
      for (int64_t k = 0; k < kRowBlock; ++k)
        quads[k * kQuads + q] =
            bits[0][k] | static_cast<uint64_t>(bits[1][k]) << 16 | static_cast<uint64_t>(bits[2][k]) << 32 | static_cast<uint64_t>(bits[3][k]) << 48;
    }
    std::memcpy(target + begin * C, quads, std::min(kRowBlock, n - begin) * kQuads * sizeof(uint64_t));
  }
}

// The row of n voxels that begins at voxel `at` of a volume's descriptors. `rows` may be read up to a block beyond the row.
template <int C, class Stored, class T>
inline void write_row(const ScratchRows<T>& rows, const MindSizes& s, int64_t at, Stored* volume) {
  const int64_t n = s.size[2];
  if (!s.channels_last) {
    for (int c = 0; c < C; ++c) {
      const T* row = rows.row(c);
      Stored* target = volume + c * s.voxels() + at;
      for (int64_t k = 0; k < n; ++k) target[k] = store<Stored>(row[k]);
    }
  } else if constexpr (sizeof(Stored) == 2) {
    write_halves_last<C>(rows, n, volume + at * C);
  } else {
    Stored* target = volume + at * C;
    for (int64_t k = 0; k < n; ++k)
      for (int c = 0; c < C; ++c) target[k * C + c] = store<Stored>(rows.row(c)[k]);
  }
}

template <int C, class Stored, class T>
inline void read_row(const Stored* volume, const MindSizes& s, int64_t at, ScratchRows<T>& rows) {
  const int64_t n = s.size[2], step = s.channels_last ? C : 1;
  for (int c = 0; c < C; ++c) {
    const Stored* source = s.channels_last ? volume + at * C + c : volume + c * s.voxels() + at;
    T* row = rows.row(c);
    for (int64_t k = 0; k < n; ++k) row[k] = load(source[k * step]);
  }
}

}  // namespace regkit
