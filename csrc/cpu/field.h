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

// Numbers that a voxel takes in `sums` below: rows of 16 bytes are added to faster than rows of 12.
constexpr int field_sum_width(int dims) { return dims == 3 ? 4 : 2; }

// The gradients of sum(grad * out) by u and v. grad is planar, or of the width of sums. Either result may be null. sums (B, field voxels,
// field_sum_width) takes the gradient by u; grad_v is planar. square: u and v are the same packed field, and sums takes both gradients.
template <class T>
void field_compose_backward(const T* grad, bool grad_planar, const T* u, const T* v, bool square, T* sums, T* grad_v, const FieldSizes& sizes, int threads);

// planar = scale * sums: (B, voxels, field_sum_width) -> (B, D, voxels).
template <class T>
void field_unpack_sums(const T* sums, T* planar, int dims, int64_t batch, int64_t voxels, T scale, int threads);

// v with v(y) = -u(y + v(y)) by fixed-point iteration from v = -u(y), for packed u; a voxel is left when it moves by no more than tolerance.
template <class T>
void field_invert(const T* u, T* v, const FieldSizes& sizes, int iterations, T tolerance, int threads);

}  // namespace regkit
