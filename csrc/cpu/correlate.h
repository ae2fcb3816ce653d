// Similarity of the patch around each keypoint to the patches around displaced positions of the moving image: the map, what is made of it
// without writing it, and the derivatives. Pointers are to contiguous arrays; sizes are (i, j, k), 2-D features have i = 1 and radius 0
// along i.
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
  int64_t displacements() const { return (2 * search_radius[0] + 1) * (2 * search_radius[1] + 1) * (2 * search_radius[2] + 1); }
};

// Features (batch, channels, voxels), or (batch, voxels, channels) where channels_last.
template <class Stored>
struct Features {
  const Stored* data;
  bool channels_last;
};

template <class Stored>
struct SearchCall {
  Features<Stored> fixed, moving;
  const int64_t *keypoints, *centers;  // (batch, keypoints, dims) voxels
  CorrelateSizes sizes;
  int threads;
};

// out: (batch, keypoints, displacements), first axis slowest.
template <class Stored>
void correlate(const SearchCall<Stored>& call, Stored* out);

// out: (batch, keypoints, dims), relative to the centre; logsumexp: (batch, keypoints).
template <class Stored, class T = arithmetic<Stored>>
void expected_displacement(const SearchCall<Stored>& call, T sharpness, T* out, T* logsumexp);

template <class Stored, class T = arithmetic<Stored>>
void best_displacement(const SearchCall<Stored>& call, T* out);

// basis: (displacements, columns); out: (batch, keypoints, columns).
template <class Stored, class T = arithmetic<Stored>>
void embed_displacements(const SearchCall<Stored>& call, const T* basis, int64_t columns, T* out);

// Gradients by the features, (batch, channels, voxels), and by the basis; null where not wanted.
template <class Stored, class T = arithmetic<Stored>>
void correlate_backward(const SearchCall<Stored>& call, const T* grad, T* grad_fixed, T* grad_moving);
template <class Stored, class T = arithmetic<Stored>>
void expected_displacement_backward(const SearchCall<Stored>& call, T sharpness, const T* grad, const T* displacement, const T* logsumexp,
                                    T* grad_fixed, T* grad_moving);
template <class Stored, class T = arithmetic<Stored>>
void embed_displacements_backward(const SearchCall<Stored>& call, const T* grad, const T* basis, int64_t columns, T* grad_fixed,
                                  T* grad_moving, T* grad_basis);

}  // namespace regkit
