// The sums of the correlation, in registers: over (channel, patch sample) pairs of a window in scratch, or over the channels of an image
// itself.
#pragma once
#include <cstdint>
#include <vector>

#include "cpu/convert.h"

namespace regkit {

enum class Term { squared_difference, product, value };

template <class T>
struct Pair {
  T fixed;
  const T* moving;
};

template <Term term, class T>
inline void add_term(Lanes<T>& sum, T fixed, Lanes<T> moving) {
  if constexpr (term == Term::squared_difference) {
    const Lanes<T> difference = fixed - moving;
    sum += difference * difference;
  } else if constexpr (term == Term::product) {
    sum += fixed * moving;
  } else {
    sum += moving;
  }
}

// sums[0, V vectors) += term(fixed, moving) over all pairs.
template <Term term, int V, class T>
void add_pairs(T* sums, const std::vector<Pair<T>>& pairs, int64_t offset) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> s[V];
  for (int v = 0; v < V; ++v) s[v] = load_lanes(sums + offset + v * L);
  for (const Pair<T>& pair : pairs)
    for (int v = 0; v < V; ++v) add_term<term, T>(s[v], pair.fixed, load_lanes(pair.moving + offset + v * L));
  for (int v = 0; v < V; ++v) store_lanes(sums + offset + v * L, s[v]);
}

// The same for any number of vectors: blocks of nearly equal size, at most 8.
template <Term term, class T>
void add_run(T* sums, const std::vector<Pair<T>>& pairs, int64_t length) {
  constexpr int L = kLaneCount<T>;
  const int64_t vectors = (length + L - 1) / L, blocks = (vectors + 7) / 8;
  for (int64_t block = 0, at = 0; block < blocks; ++block) {
    const int64_t size = (vectors - at + blocks - block - 1) / (blocks - block), offset = at * L;
    switch (size) {
      case 1: add_pairs<term, 1>(sums, pairs, offset); break;
      case 2: add_pairs<term, 2>(sums, pairs, offset); break;
      case 3: add_pairs<term, 3>(sums, pairs, offset); break;
      case 4: add_pairs<term, 4>(sums, pairs, offset); break;
      case 5: add_pairs<term, 5>(sums, pairs, offset); break;
      case 6: add_pairs<term, 6>(sums, pairs, offset); break;
      case 7: add_pairs<term, 7>(sums, pairs, offset); break;
      default: add_pairs<term, 8>(sums, pairs, offset); break;
    }
    at += size;
  }
}

constexpr int kRows = 4;

// For kRows rows: sums[row, V vectors) = term(fixed, moving) over all channels, and norms = the sums of moving^2 where wanted.
template <Term term, bool squares, int V, class Stored, class T = arithmetic<Stored>>
void sum_channels(const T* fixed, int64_t channels, const Stored* const* rows, int64_t channel_step, T* const* sums, T* const* norms) {
  constexpr int L = kLaneCount<T>;
  Lanes<T> s[kRows][V] = {}, n[kRows][V] = {};
  for (int64_t c = 0; c < channels; ++c)
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < V; ++v) {
        const Lanes<T> m = load_as_lanes(rows[r] + c * channel_step + v * L);
        add_term<term, T>(s[r][v], fixed[c], m);
        if constexpr (squares) n[r][v] += m * m;
      }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < V; ++v) {
      store_lanes(sums[r] + v * L, s[r][v]);
      if constexpr (squares) store_lanes(norms[r] + v * L, n[r][v]);
    }
}

}  // namespace regkit
