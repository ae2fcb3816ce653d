// Displacement fields on the CPU: one after another, and what undoes one. Pointers are to contiguous arrays; 2-D sizes are (1, j, k) with dims = 2.
//
// A sample reads all D components of 2^D voxels. Kept voxel by voxel ("packed": (B, *spatial, D)) they lie in 2^(D-1) runs of 2D numbers, each of
// them one load, where component volumes ("planar": (B, D, *spatial)) need D times as many. So the field that is sampled is always packed; it is
// packed once and then sampled by every step, or every sweep.
#pragma once
#include <cstdint>

namespace regkit {

struct FieldSizes {
  int dims;  // 2 or 3
  int64_t batch;
  int64_t field[3];   // i, j, k of the field that is sampled
  int64_t output[3];  // i, j, k of the displacement it is sampled at
  int64_t field_voxels() const { return field[0] * field[1] * field[2]; }
  int64_t output_voxels() const { return output[0] * output[1] * output[2]; }
};

// packed = scale * planar, (B, D, voxels) -> (B, voxels, D).
template <class T>
void field_pack(const T* planar, T* packed, int dims, int64_t batch, int64_t voxels, T scale, int threads);

// out(x) = v(x) + u(x + v(x)) for packed u; v and out are packed or planar.
template <class T>
void field_compose(const T* u, const T* v, bool v_packed, T* out, bool out_packed, const FieldSizes& sizes, int threads);

// planar = scale * packed: (B, voxels, D) -> (B, D, voxels).
template <class T>
void field_unpack(const T* packed, T* planar, int dims, int64_t batch, int64_t voxels, T scale, int threads);

// The gradients of sum(grad * out) by u (packed) and v (planar); either may be null. square: u and v are the same packed field, and grad_u takes both
// gradients. grad is packed or planar.
template <class T>
void field_compose_backward(const T* grad, bool grad_packed, const T* u, const T* v, bool square, T* grad_u, T* grad_v, const FieldSizes& sizes, int threads);

// v with v(y) = -u(y + v(y)) by fixed-point iteration from v = -u(y), for packed u; a voxel is left when it moves by no more than tolerance.
template <class T>
void field_invert(const T* u, T* v, const FieldSizes& sizes, int iterations, T tolerance, int threads);

}  // namespace regkit
