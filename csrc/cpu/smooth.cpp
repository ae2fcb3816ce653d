// Smoothing by [a, 1 - 2a, a] along each axis, borders repeated. 8 bytes a value (float32): the nine rows around a row come from cache.
//
// A row of the output is the weighted sum of its 3 x 3 neighbouring rows, in vector code along k, then the three taps along k. The matrix of
// the filter is symmetric, borders included, so that the same code is its own adjoint.
#include "smooth.h"

#include <vector>

#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;

// sum[k] = a (low[k] + high[k]) + b centre[k] for three rows of three
template <class T>
void add_rows(const T* const (&rows)[3][3], T a, T b, int64_t n, T* __restrict sum) {
  for (int64_t k = 0; k < n; ++k) {
    T along_j[3];
    for (int i = 0; i < 3; ++i) along_j[i] = a * (rows[i][0][k] + rows[i][2][k]) + b * rows[i][1][k];
    sum[k] = a * (along_j[0] + along_j[2]) + b * along_j[1];
  }
}

}  // namespace

template <class T>
void smooth(const SmoothCall<T>& call, int threads) {
  const int64_t ni = call.size[0], nj = call.size[1], nk = call.size[2];
  const T a = call.side, b = 1 - 2 * call.side;
  const Chunks chunks{nk > 0 ? call.volumes * ni * nj : 0, kRowsPerJob};
  advise_large_pages(call.out, call.volumes * ni * nj * nk);
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    std::vector<T> sum(nk);
    for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) {
      const int64_t j = r % nj, i = r / nj % ni;
      const T* rows[3][3];
      for (int di = -1; di <= 1; ++di)
        for (int dj = -1; dj <= 1; ++dj) {
          const int64_t si = i + di < 0 || i + di >= ni ? 0 : di, sj = j + dj < 0 || j + dj >= nj ? 0 : dj;
          rows[di + 1][dj + 1] = call.in + (r + si * nj + sj) * nk;
        }
      add_rows(rows, a, b, nk, sum.data());
      T* out = call.out + r * nk;
      const T* s = sum.data();
      if (nk == 1) {
        out[0] = s[0];
        continue;
      }
      out[0] = (a + b) * s[0] + a * s[1];
      for (int64_t k = 1; k < nk - 1; ++k) out[k] = a * (s[k - 1] + s[k + 1]) + b * s[k];
      out[nk - 1] = (a + b) * s[nk - 1] + a * s[nk - 2];
    }
  });
}

template void smooth<float>(const SmoothCall<float>&, int);
template void smooth<double>(const SmoothCall<double>&, int);

}  // namespace regkit
