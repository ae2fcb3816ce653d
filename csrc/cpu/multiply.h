// A small matrix product, C += A B, for matrices that lie in the caches: tiles of C stay in registers while they run down the depth, one
// broadcast of A and a few vectors of B a step. (A BLAS would be called with other threads and other memory; torch's is out of reach here.)
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/lanes.h"

namespace regkit {

// A(row, depth) lies at row * row_step + depth * depth_step, so that a transpose is a change of steps.
template <class T>
struct Operand {
  const T* data;
  int64_t row_step, depth_step;
};

template <int R, int V, class T>
void multiply_tile(const Operand<T>& a, const T* b, int64_t b_pitch, T* c, int64_t c_pitch, int64_t depth) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = load_lanes(c + r * c_pitch + v * L);
  for (int64_t d = 0; d < depth; ++d) {
    Lanes<T> row[V];
    for (int v = 0; v < V; ++v) row[v] = load_lanes(b + d * b_pitch + v * L);
    for (int r = 0; r < R; ++r) {
      const T x = a.data[r * a.row_step + d * a.depth_step];
      for (int v = 0; v < V; ++v) sum[r][v] += x * row[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store_lanes(c + r * c_pitch + v * L, sum[r][v]);
}

template <int V, class T>
void multiply_rows(Operand<T> a, const T* b, int64_t b_pitch, T* c, int64_t c_pitch, int64_t rows, int64_t depth) {
  for (int64_t done = 0; done < rows;) {
    const int64_t count = std::min<int64_t>(6, rows - done);
    switch (count) {
      case 6: multiply_tile<6, V>(a, b, b_pitch, c, c_pitch, depth); break;
      case 5: multiply_tile<5, V>(a, b, b_pitch, c, c_pitch, depth); break;
      case 4: multiply_tile<4, V>(a, b, b_pitch, c, c_pitch, depth); break;
      case 3: multiply_tile<3, V>(a, b, b_pitch, c, c_pitch, depth); break;
      case 2: multiply_tile<2, V>(a, b, b_pitch, c, c_pitch, depth); break;
      default: multiply_tile<1, V>(a, b, b_pitch, c, c_pitch, depth); break;
    }
    done += count;
    a.data += count * a.row_step;
    c += count * c_pitch;
  }
}

// C (rows, columns) += A (rows, depth) B (depth, columns); columns is a multiple of the lanes.
template <class T>
void multiply(Operand<T> a, const T* b, int64_t b_pitch, T* c, int64_t c_pitch, int64_t rows, int64_t columns, int64_t depth) {
  constexpr int L = kLaneCount<T>, kVectors = kVectorBytes == 64 ? 4 : 2;  // 24 sums of 32 registers, or 12 of 16
  constexpr int64_t kDepth = 256;                                         // of B that stay in the L2 cache
  for (int64_t d = 0; d < depth; d += kDepth, a.data += kDepth * a.depth_step, b += kDepth * b_pitch) {
    const int64_t count = std::min(kDepth, depth - d);
    for (int64_t at = 0; at < columns;) {
      const int64_t vectors = std::min<int64_t>(kVectors, (columns - at) / L);
      switch (vectors) {
        case 4: multiply_rows<kVectors>(a, b + at, b_pitch, c + at, c_pitch, rows, count); break;
        case 3: multiply_rows<std::min(3, kVectors)>(a, b + at, b_pitch, c + at, c_pitch, rows, count); break;
        case 2: multiply_rows<2>(a, b + at, b_pitch, c + at, c_pitch, rows, count); break;
        default: multiply_rows<1>(a, b + at, b_pitch, c + at, c_pitch, rows, count); break;
      }
      at += vectors * L;
    }
  }
}

template <class T>
int64_t whole_vectors(int64_t n) {
  return (n + kLaneCount<T> - 1) / kLaneCount<T> * kLaneCount<T>;
}

}  // namespace regkit
