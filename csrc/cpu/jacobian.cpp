// Jacobian determinant on the CPU. Bytes a voxel (3-D, float32): forward 12 + 4; backward 12 + 4 + 12, the neighbouring rows coming from
// cache.
// The arithmetic is in jacobian_rows.h.
#include "jacobian.h"

#include <type_traits>

#include "cpu/jacobian_rows.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;

// Calls visit(rows, b, i, j) for every row of the batch; rows is a JacobianRows<D, T> of its job.
template <class T, class Visit>
void for_rows(const JacobianSizes& s, int threads, Visit&& visit) {
  const Chunks chunks{s.size[2] > 0 ? s.batch * s.size[0] * s.size[1] : 0, kRowsPerJob};
  const auto job_of = [&](auto dims, int64_t job) {
    JacobianRows<dims.value, T> rows(s);
    for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r)
      visit(rows, r / (s.size[0] * s.size[1]), r / s.size[1] % s.size[0], r % s.size[1]);
  };
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    if (s.dims == 3) job_of(std::integral_constant<int, 3>{}, job);
    else job_of(std::integral_constant<int, 2>{}, job);
  });
}

}  // namespace

template <class T>
void jacobian_determinant(const T* u, T* determinant, const JacobianSizes& s, int threads) {
  advise_large_pages(determinant, s.batch * s.voxels());
  for_rows<T>(s, threads, [&](auto& rows, int64_t b, int64_t i, int64_t j) {
    rows.determinant(u + b * s.dims * s.voxels(), i, j, determinant + b * s.voxels() + (i * s.size[1] + j) * s.size[2]);
  });
}

template <class T>
void jacobian_determinant_grad(const T* grad_out, const T* u, T* grad_u, const JacobianSizes& s, int threads) {
  advise_large_pages(grad_u, s.batch * s.dims * s.voxels());
  for_rows<T>(s, threads, [&](auto& rows, int64_t b, int64_t i, int64_t j) {
    const int64_t volume = b * s.dims * s.voxels();
    rows.gradient(u + volume, grad_out + b * s.voxels(), i, j, grad_u + volume + (i * s.size[1] + j) * s.size[2]);
  });
}

#define REGKIT_INSTANTIATE(T)                                                                \
  template void jacobian_determinant<T>(const T*, T*, const JacobianSizes&, int);            \
  template void jacobian_determinant_grad<T>(const T*, const T*, T*, const JacobianSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
