// Bending energy on the CPU. Bytes a value (float32): 4 read, and 4 written with the gradient; the twelve rows around a row come from cache.
//
// A job is a slab of rows of a chunk of planes of one volume, and marches through the planes: five planes of a slab stay in L2. A row that is
// missing at the border is replaced by the nearest, so that its differences are 0; second differences that do not exist have weight 0.
// The two axes across the row are done first, lane by lane: what they add to the gradient goes to it, and what is still to be differenced
// along k, to a buffer in L1. Then k.
// With the gradient it is bound by additions, some 40 a vector of the about 60 operations: differences of differences do not fuse.
// Squares are added in one float per lane and row, rows in double, jobs in order: the sum does not depend on the threads.
#include "bending.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/bending.h"
#include "cpu/lanes.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kSlabRows = 32, kChunkPlanes = 64;

template <class V, class T>
inline V get(const T* source) {
  V v;
  std::memcpy(&v, source, sizeof v);
  return v;
}

template <class T, class V>
inline void put(T* target, V v) {
  std::memcpy(target, &v, sizeof v);
}

// One of the two axes across a row: the rows at -2 .. 2 along it, and where second differences exist.
template <class T>
struct Across {
  const T* at[5];
  T exists_low, exists, exists_high;

  Across(const T* centre, int64_t x, int64_t n, int64_t stride) {
    for (int64_t step = -2; step <= 2; ++step) at[step + 2] = centre + (std::clamp<int64_t>(x + step, 0, n - 1) - x) * stride;
    const auto inside = [n](int64_t y) { return T(y > 0 && y < n - 1); };
    exists_low = inside(x - 1), exists = inside(x), exists_high = inside(x + 1);
  }
};

template <class T>
struct Row {
  Across<T> i, j;
  const T* corner[2][2];  // rows at (i -+ 1, j -+ 1)
  int64_t n;
};

// V at k: adds to the energy of the terms across the row; the parts of half the gradient that are not, and that are to be differenced along k.
template <bool with_gradient, class V, class T>
inline void across(const BendingCall<T>& call, const Row<T>& row, int64_t k, V& energy, T* __restrict g, T* __restrict along) {
  const V c = get<V>(row.i.at[2] + k), i_low = get<V>(row.i.at[1] + k), i_high = get<V>(row.i.at[3] + k), j_low = get<V>(row.j.at[1] + k),
          j_high = get<V>(row.j.at[3] + k), high_high = get<V>(row.corner[1][1] + k);
  const V t_i = second_difference(i_low, c, i_high), t_j = second_difference(j_low, c, j_high), m = twist(c, j_high, i_high, high_high);
  energy += (row.i.exists * call.pure[0]) * t_i * t_i + (row.j.exists * call.pure[1]) * t_j * t_j + call.mixed[0] * m * m;
  if constexpr (with_gradient) {
    const V low_low = get<V>(row.corner[0][0] + k), low_high = get<V>(row.corner[0][1] + k), high_low = get<V>(row.corner[1][0] + k);
    const V pure_i = fourth_difference(get<V>(row.i.at[0] + k), i_low, c, i_high, get<V>(row.i.at[4] + k), row.i.exists_low, row.i.exists, row.i.exists_high);
    const V pure_j = fourth_difference(get<V>(row.j.at[0] + k), j_low, c, j_high, get<V>(row.j.at[4] + k), row.j.exists_low, row.j.exists, row.j.exists_high);
    const V mixed = second_difference(second_difference(low_low, i_low, low_high), t_j, second_difference(high_low, i_high, high_high));
    put(g + k, call.pure[0] * pure_i + call.pure[1] * pure_j + call.mixed[0] * mixed);
    put(along + k, call.mixed[1] * t_i + call.mixed[2] * t_j);
  }
}

// V at k, with a neighbour at k + 1: the energy of the cells along the row.
template <class V, class T>
inline V twists(const BendingCall<T>& call, const Row<T>& row, int64_t k) {
  const T *c = row.i.at[2] + k, *i = row.i.at[3] + k, *j = row.j.at[3] + k;
  const V m_ik = twist(get<V>(c), get<V>(c + 1), get<V>(i), get<V>(i + 1)), m_jk = twist(get<V>(c), get<V>(c + 1), get<V>(j), get<V>(j + 1));
  return call.mixed[1] * m_ik * m_ik + call.mixed[2] * m_jk * m_jk;
}

// V at k, with neighbours on both sides: the second difference along the row.
template <class V, class T>
inline V along_row(const T* c) {
  return second_difference(get<V>(c - 1), get<V>(c), get<V>(c + 1));
}

// f(k, V()) for k in [begin, end): V is a vector as long as there are enough lanes, then a number.
template <class T, class Function>
inline void for_lanes(int64_t begin, int64_t end, Function&& f) {
  int64_t k = begin;
  for (; k + kLaneCount<T> <= end; k += kLaneCount<T>) f(k, Lanes<T>{});
  for (; k < end; ++k) f(k, T());
}

// The energy of a row; its gradient goes to g if wanted. along: a buffer of a row.
template <bool with_gradient, class T>
double energy_of(const BendingCall<T>& call, const Row<T>& row, T* __restrict g, T* __restrict along) {
  const T* c = row.i.at[2];
  Lanes<T> lanes = {};
  T rest = 0;
  const auto sum_of = [&](auto v) -> decltype(auto) {
    if constexpr (std::is_same_v<decltype(v), T>) return (rest);
    else return (lanes);
  };
  for_lanes<T>(0, row.n, [&](int64_t k, auto v) { across<with_gradient, decltype(v)>(call, row, k, sum_of(v), g, along); });
  for_lanes<T>(0, row.n - 1, [&](int64_t k, auto v) { sum_of(v) += twists<decltype(v)>(call, row, k); });
  for_lanes<T>(1, row.n - 1, [&](int64_t k, auto v) {
    using V = decltype(v);
    const V t = along_row<V>(c + k);
    sum_of(v) += call.pure[2] * t * t;
    if constexpr (with_gradient) put(along + k, get<V>(along + k) + call.pure[2] * t);
  });
  if constexpr (with_gradient) {
    const T scale = 2 * call.scale;
    const auto finish = [&](int64_t k, int64_t low, int64_t high) { g[k] = scale * (g[k] + second_difference(along[low], along[k], along[high])); };
    for_lanes<T>(1, row.n - 1, [&](int64_t k, auto v) {
      using V = decltype(v);
      put(g + k, scale * (get<V>(g + k) + along_row<V>(along + k)));
    });
    finish(0, 0, std::min<int64_t>(1, row.n - 1));
    if (row.n > 1) finish(row.n - 1, row.n - 2, row.n - 1);
  }
  return static_cast<double>(sum_lanes<T>(lanes)) + rest;
}

}  // namespace

template <class T>
void bending_energy(const BendingCall<T>& call, int threads) {
  const int64_t ni = call.size[0], nj = call.size[1], nk = call.size[2], plane = nj * nk;
  const Chunks slabs{nj, kSlabRows}, chunks{ni, kChunkPlanes};
  const int64_t tiles = nk > 0 ? slabs.count() * chunks.count() : 0;
  advise_large_pages(call.gradient, call.volumes * ni * plane);
  std::vector<double> sums(call.volumes * tiles);
  parallel_for(call.volumes * tiles, threads, [&](int64_t job) {
    const int64_t volume = job / tiles, chunk = job % tiles / slabs.count(), slab = job % slabs.count();
    std::vector<T> along(nk);
    for (int64_t i = chunks.begin(chunk); i < chunks.end(chunk); ++i)
      for (int64_t j = slabs.begin(slab); j < slabs.end(slab); ++j) {
        const int64_t at = (volume * ni + i) * plane + j * nk;
        const T* c = call.u + at;
        Row<T> row{{c, i, ni, plane}, {c, j, nj, nk}, {}, nk};
        for (int a : {0, 1})
          for (int b : {0, 1}) row.corner[a][b] = row.i.at[2 * a + 1] + (row.j.at[2 * b + 1] - c);
        sums[job] += call.gradient ? energy_of<true>(call, row, call.gradient + at, along.data()) : energy_of<false, T>(call, row, nullptr, nullptr);
      }
  });
  *call.energy = 0;
  for (double sum : sums) *call.energy += sum;
}

template void bending_energy<float>(const BendingCall<float>&, int);
template void bending_energy<double>(const BendingCall<double>&, int);

}  // namespace regkit
