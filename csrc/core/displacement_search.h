// What is made of the similarities s_d of a keypoint to the displacements d of a search cube.
//
//   scores     t_d = slope s_d,   slope = -sharpness (ssd) or sharpness (dot, cosine)
//   expected   delta = sum_d w_d d,   w_d = exp(t_d - l),   l = log sum_d exp(t_d)
//   gradient   dL/ds_d = slope w_d (d - delta).g   of the gradient g by delta: from delta and l alone
//   best       the d of the largest score; of equal ones the shortest, of equally short ones the first
#pragma once
#include "core/correlate.h"
#include "core/exp.h"
#include "core/inline.h"

namespace regkit {

template <class T>
REGKIT_INLINE T score_slope(int metric, T sharpness) {
  return metric == static_cast<int>(Metric::ssd) ? -sharpness : sharpness;
}

// along = (d - delta).g
template <class T>
REGKIT_INLINE T expected_gradient(T slope, T similarity, T logsumexp, T along) {
  return slope * exp_nonpositive(slope * similarity - logsumexp) * along;
}

}  // namespace regkit
