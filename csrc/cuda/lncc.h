// Local NCC on a GPU: value, map, and gradients by way of the adjoints. Formulas: core/lncc.h.
#pragma once
#include <cstdint>

#include "cuda/stored.h"

namespace regkit::cuda {

// Pointers are to contiguous memory of the device; a null pointer stands for what is not wanted.
struct LnccCall {
  const void *a, *b;                 // volumes * (i, j, k), as `stored`
  StoredAs stored;
  const float *shifts_a, *shifts_b;  // about the mean of each volume
  const float* weight;               // one volume for every `volumes_per_weight` volumes, or null for 1
  int64_t first_volume, volumes_per_weight;
  int64_t volumes, size[3];          // i = 1 in 2-D
  int window, window_i;              // odd; 1 along i in 2-D
  float eps;
};

// Blocks that `lncc_windows` has for a call: so many partial sums it writes.
int64_t lncc_blocks(const LnccCall& call);

// partials: sums of weight * ncc. map: as `stored`. adjoints: 3 volumes each for (cross, square_a, linear_a), or with `both` 5, square_b and linear_b.
void lncc_windows(const LnccCall& call, float* partials, void* map, float* adjoints, bool both, Stream stream);

// d sum(weight * ncc) / d image, times *scale, from the adjoints; grad_b is wanted with `both` alone. as: how the gradients are stored.
void lncc_gradient(const LnccCall& call, const float* adjoints, bool both, const float* scale, void* grad_a, void* grad_b, StoredAs as, Stream stream);

// What image a of a call is a warp of: moving(x + u(x)), volume by volume.
struct LnccWarp {
  const float *moving, *u;
  float* by_u;
  int64_t size[3];  // of the moving image; i = 1 in 2-D
  int dims, padding;
  float fill;
};

// d sum(weight * ncc) / du, times *scale, from the adjoints of one image (a): what lncc_gradient gives, times the moving image's slopes.
void lncc_gradient_of_warp(const LnccCall& call, const float* adjoints, const float* scale, const LnccWarp& warp, Stream stream);

}  // namespace regkit::cuda
