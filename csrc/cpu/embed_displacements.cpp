// The map of similarities times a basis on the CPU, without the map. FLOPs a displacement: those of its similarity, and 2 a column of the
// basis. A job has the similarities of some keypoints in the L2 cache and multiplies them there, so that the basis (larger than that) comes
// from the L3 cache once for all of them.
#include "cpu/correlate_search.h"
#include "cpu/multiply.h"
#include "cpu/search_backward.h"

namespace regkit {
namespace {

constexpr int64_t kKeypointsPerJob = 12;
constexpr int64_t kDisplacementsPerJob = 96;

// rows (count, columns) with zeros up to whole vectors.
template <class T>
std::vector<T> padded(const T* rows, int64_t count, int64_t columns) {
  const int64_t pitch = whole_vectors<T>(columns);
  std::vector<T> result(count * pitch, T(0));
  for (int64_t row = 0; row < count; ++row) std::copy_n(rows + row * columns, columns, result.data() + row * pitch);
  return result;
}

}  // namespace

template <class Stored, class T>
void embed_displacements(const SearchCall<Stored>& call, const T* basis, int64_t columns, T* out) {
  const int64_t displacements = call.sizes.displacements(), pitch = whole_vectors<T>(columns);
  const std::vector<T> b = padded(basis, displacements, columns);
  for_keypoints(call, kKeypointsPerJob, [&](Correlator<Stored>& correlator, const int64_t* keypoints, int64_t count) {
    std::vector<T> similarities(count * displacements), embedded(count * pitch, T(0));
    for (int64_t item = 0; item < count; ++item) {
      correlator.run(keypoints[item]);
      correlator.write(similarities.data() + item * displacements);
    }
    multiply<T>({similarities.data(), displacements, 1}, b.data(), pitch, embedded.data(), pitch, count, pitch, displacements);
    for (int64_t item = 0; item < count; ++item) std::copy_n(embedded.data() + item * pitch, columns, out + keypoints[item] * columns);
  });
}

template <class Stored, class T>
void embed_displacements_backward(const SearchCall<Stored>& call, const T* grad, const T* basis, int64_t columns, T* grad_fixed,
                                  T* grad_moving, T* grad_basis) {
  const int64_t displacements = call.sizes.displacements(), pitch = whole_vectors<T>(columns);
  std::vector<T> transposed, by_basis(grad_basis ? displacements * pitch : 0, T(0));
  const int64_t row = whole_vectors<T>(displacements);
  if (grad_fixed || grad_moving) {
    transposed.assign(columns * row, T(0));
    for (int64_t p = 0; p < columns; ++p)
      for (int64_t d = 0; d < displacements; ++d) transposed[p * row + d] = basis[d * columns + p];
  }
  SimilarityGradient<T> gradient;
  gradient.of_block = [&](const int64_t* keypoints, int64_t count, T* rows) {
    const Chunks chunks{count, kKeypointsPerJob};
    parallel_for(chunks.count(), call.threads, [&](int64_t job) {
      const int64_t begin = chunks.begin(job), size = chunks.end(job) - begin;
      std::vector<T> g(size * columns), product(size * row, T(0));
      for (int64_t at = 0; at < size; ++at) std::copy_n(grad + keypoints[begin + at] * columns, columns, g.data() + at * columns);
      multiply<T>({g.data(), columns, 1}, transposed.data(), row, product.data(), row, size, row, columns);
      for (int64_t at = 0; at < size; ++at) std::copy_n(product.data() + at * row, displacements, rows + (begin + at) * displacements);
    });
  };
  if (grad_basis)
    gradient.use_similarities = [&](const int64_t* keypoints, int64_t count, const T* similarities) {
      std::vector<T> g(count * pitch, T(0));
      for (int64_t at = 0; at < count; ++at) std::copy_n(grad + keypoints[at] * columns, columns, g.data() + at * pitch);
      const Chunks chunks{displacements, kDisplacementsPerJob};
      parallel_for(chunks.count(), call.threads, [&](int64_t job) {
        const int64_t begin = chunks.begin(job), size = chunks.end(job) - begin;
        multiply<T>({similarities + begin, 1, displacements}, g.data(), pitch, by_basis.data() + begin * pitch, pitch, size, pitch, count);
      });
    };
  search_backward(call, gradient, grad_fixed, grad_moving);
  for (int64_t d = 0; grad_basis && d < displacements; ++d) std::copy_n(by_basis.data() + d * pitch, columns, grad_basis + d * columns);
}

#define REGKIT_INSTANTIATE(S)                                                                                                           \
  template void embed_displacements<S>(const SearchCall<S>&, const arithmetic<S>*, int64_t, arithmetic<S>*);                            \
  template void embed_displacements_backward<S>(const SearchCall<S>&, const arithmetic<S>*, const arithmetic<S>*, int64_t,              \
                                                arithmetic<S>*, arithmetic<S>*, arithmetic<S>*);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
