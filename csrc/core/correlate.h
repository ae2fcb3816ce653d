// Similarity of a fixed patch F and a moving patch M (P voxels, C channels, so P C values each), and its derivatives.
//
//   ssd     sum (F - M)^2 / P
//   dot     sum F M / P
//   cosine  sum F M / (|F| |M| + eps),   |F|^2 = sum F^2
//
// All derivatives have one form. With the gradient g_d of the similarity s_d to the moving patch M_d of each displacement d:
//   d/dF = sum_d alpha_d M_d + gamma F,      d/dM_d = alpha_d F + beta_d M_d
//   ssd     alpha = -2 g / P,        beta = 2 g / P,             gamma = sum_d 2 g / P
//   dot     alpha = g / P,           beta = 0,                   gamma = 0
//   cosine  alpha = g / (|F||M|+eps), beta = -alpha s |F| / |M|,  gamma = -sum_d alpha s |M| / |F|      (0 where a norm is 0)
#pragma once
#include "core/inline.h"

namespace regkit {

enum class Metric : int { ssd = 0, dot = 1, cosine = 2 };

constexpr double kCosineEps = 1e-6;

template <class T>
struct CosineTerms {
  T similarity, alpha, beta, gamma;  // alpha, beta, gamma for the gradient g
};

template <class T>
REGKIT_INLINE CosineTerms<T> cosine_terms(T dot, T fixed_norm, T moving_norm, T g) {
  CosineTerms<T> t;
  const T inverse = 1 / (fixed_norm * moving_norm + static_cast<T>(kCosineEps));
  t.similarity = dot * inverse;
  t.alpha = g * inverse;
  t.beta = moving_norm > 0 ? -t.alpha * t.similarity * fixed_norm / moving_norm : T(0);
  t.gamma = fixed_norm > 0 ? -t.alpha * t.similarity * moving_norm / fixed_norm : T(0);
  return t;
}

}  // namespace regkit
