// Diffusion energy on the CPU. Bytes a value (float32): 4 read, and 4 written with the gradient; the neighbouring rows come from cache.
//
// A job is some rows along k of one volume. A row that is missing at the border is replaced by the row itself, so that the loop over k has
// no branch.
// Squares are added in one float per lane and row, rows in double, jobs in order: the sum does not depend on the threads.
#include "diffusion.h"

#include <vector>

#include "core/diffusion.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kRowsPerJob = 64;

template <class T>
struct Row {
  const T *centre, *low_i, *high_i, *low_j, *high_j;
  int64_t n;
};

template <class T>
inline T steps(const Row<T>& row, int64_t k, int64_t high, const T* w) {
  const T c = row.centre[k];
  return squared_step(c, row.high_i[k], w[0]) + squared_step(c, row.high_j[k], w[1]) + squared_step(c, row.centre[high], w[2]);
}

template <class T>
inline T slope(const Row<T>& row, int64_t low, int64_t k, int64_t high, const T* w) {
  const T c = row.centre[k];
  return 2 * (curvature(row.low_i[k], c, row.high_i[k], w[0]) + curvature(row.low_j[k], c, row.high_j[k], w[1]) +
              curvature(row.centre[low], c, row.centre[high], w[2]));
}

// The energy of a row; its gradient goes to g if wanted.
template <bool with_gradient, class T>
double energy_of(const Row<T>& row, const T* weight, T scale, T* __restrict g) {
  const T w[3] = {weight[0], weight[1], weight[2]};
  const int64_t last = row.n - 1;
  T sums[kLanes] = {};
  int64_t k = row.n > 1 ? 1 : 0;
  if (k) {
    sums[0] = steps(row, 0, 1, w);
    if (with_gradient) g[0] = scale * slope(row, 0, 0, 1, w);
  }
  for (; k + kLanes <= last; k += kLanes) {
    for (int l = 0; l < kLanes; ++l) sums[l] += steps(row, k + l, k + l + 1, w);
    if (with_gradient)
      for (int l = 0; l < kLanes; ++l) g[k + l] = scale * slope(row, k + l - 1, k + l, k + l + 1, w);
  }
  for (; k < row.n; ++k) {
    const int64_t low = k > 0 ? k - 1 : 0, high = k < last ? k + 1 : last;
    sums[0] += steps(row, k, high, w);
    if (with_gradient) g[k] = scale * slope(row, low, k, high, w);
  }
  double sum = 0;
  for (T lane : sums) sum += lane;
  return sum;
}

}  // namespace

template <class T>
void diffusion_energy(const DiffusionCall<T>& call, int threads) {
  const int64_t ni = call.size[0], nj = call.size[1], nk = call.size[2];
  const Chunks chunks{nk > 0 ? call.volumes * ni * nj : 0, kRowsPerJob};
  advise_large_pages(call.gradient, call.volumes * ni * nj * nk);
  std::vector<double> sums(chunks.count());
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) {
      const int64_t j = r % nj, i = r / nj % ni;
      const T* c = call.u + r * nk;
      const Row<T> row{c, i > 0 ? c - nj * nk : c, i < ni - 1 ? c + nj * nk : c, j > 0 ? c - nk : c, j < nj - 1 ? c + nk : c, nk};
      sums[job] += call.gradient ? energy_of<true>(row, call.weight, call.scale, call.gradient + r * nk)
                                 : energy_of<false, T>(row, call.weight, call.scale, nullptr);
    }
  });
  *call.energy = 0;
  for (double sum : sums) *call.energy += sum;
}

template void diffusion_energy<float>(const DiffusionCall<float>&, int);
template void diffusion_energy<double>(const DiffusionCall<double>&, int);

}  // namespace regkit
