// Similarity of the patch around each keypoint to the patches around displaced positions of the moving image, and its derivatives. Pointers
// are to contiguous arrays; sizes are (i, j, k), 2-D features have i = 1 and radius 0 along i.
#pragma once
#include <cstdint>

#include "cpu/storage.h"

namespace regkit {

struct CorrelateSizes {
  int dims;  // coordinates of a position: 2 or 3
  int64_t batch, channels, keypoints;
  int64_t fixed[3], moving[3];  // spatial sizes of the features
  int64_t search_radius[3], patch_radius[3];
  int64_t stride, patch_stride;  // voxels between displacements, between the samples of a patch
  int metric;                    // core/correlate.h
  int64_t fixed_voxels() const { return fixed[0] * fixed[1] * fixed[2]; }
  int64_t moving_voxels() const { return moving[0] * moving[1] * moving[2]; }
};

// keypoints, centers: (batch, keypoints, dims) voxels. out: (batch, keypoints, displacements), first axis slowest.
template <class Stored>
void correlate(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, Stored* out,
               const CorrelateSizes& sizes, int threads);

// alpha, beta (of every displacement) and gamma (of every keypoint) of core/correlate.h for metric cosine.
template <class Stored, class T = arithmetic<Stored>>
void correlate_cosine_terms(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, const T* grad,
                            T* alpha, T* beta, T* gamma, const CorrelateSizes& sizes, int threads);

// Gradients by the features. alpha is the gradient of the result for ssd and dot, which take no beta and gamma (null).
template <class Stored, class T = arithmetic<Stored>>
void correlate_grad_fixed(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, const T* alpha,
                          const T* gamma, T* grad_fixed, const CorrelateSizes& sizes, int threads);
template <class Stored, class T = arithmetic<Stored>>
void correlate_grad_moving(const Stored* fixed, const Stored* moving, const int64_t* keypoints, const int64_t* centers, const T* alpha,
                           const T* beta, T* grad_moving, const CorrelateSizes& sizes, int threads);

}  // namespace regkit
