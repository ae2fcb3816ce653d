// Gradients of the map of keypoint correlations: its own gradient is the similarities'.
#include <algorithm>

#include "cpu/search_backward.h"

namespace regkit {

template <class Stored, class T>
void correlate_backward(const SearchCall<Stored>& call, const T* grad, T* grad_fixed, T* grad_moving) {
  const int64_t displacements = call.sizes.displacements();
  SimilarityGradient<T> gradient;
  gradient.of_block = [&](const int64_t* keypoints, int64_t count, T* rows) {
    for (int64_t at = 0; at < count; ++at) std::copy_n(grad + keypoints[at] * displacements, displacements, rows + at * displacements);
  };
  search_backward(call, gradient, grad_fixed, grad_moving);
}

#define REGKIT_INSTANTIATE(S) \
  template void correlate_backward<S>(const SearchCall<S>&, const arithmetic<S>*, arithmetic<S>*, arithmetic<S>*);
REGKIT_FOR_STORED(REGKIT_INSTANTIATE)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
