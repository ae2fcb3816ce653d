// A block's part in a search: patches of keypoints in shared memory, and the similarities of runs of displacements to them.
//
// A lane has kRun displacements one after another along j, lanes side by side those along k. Where patch and search have one stride the samples
// of a run overlap: of kRun + 2 patch_radius rows read, each serves up to kRun displacements. Fixed samples come from shared memory, the same
// address for all lanes. The cube lies in L1 and L2, which bound it all.
#pragma once
#include <cmath>

#include "cuda/search.h"
#include "cuda/tiles.h"

namespace regkit::cuda {

constexpr int kRun = 3;

// A search as kernels take it. Radii along i are 0 in 2-D.
struct Search {
  const int64_t *keypoints, *centers;
  Extent fixed, moving;
  int dims, groups, points, side, side_i, stride, patch_radius, patch_radius_i, patch_stride;

  explicit Search(const SearchCall& c)
      : keypoints(c.keypoints), centers(c.centers), fixed(extent(c.fixed_size)), moving(extent(c.moving_size)), dims(c.dims),
        groups(static_cast<int>(c.channels / 4)), points(static_cast<int>(c.points)), side(2 * c.radius + 1), side_i(c.dims == 3 ? side : 1),
        stride(c.stride), patch_radius(c.patch_radius), patch_radius_i(c.dims == 3 ? c.patch_radius : 0), patch_stride(c.patch_stride) {}

  REGKIT_INLINE int samples() const { return (2 * patch_radius_i + 1) * (2 * patch_radius + 1) * (2 * patch_radius + 1); }
  REGKIT_INLINE int displacements() const { return side_i * side * side; }
  REGKIT_INLINE int radius() const { return side / 2; }
  REGKIT_INLINE int radius_i() const { return side_i / 2; }
};

template <class Stored>
struct alignas(4 * sizeof(Stored)) Four {
  Stored x[4];
};

template <class Stored>
__device__ __forceinline__ float4 load_four(const Stored* at) {
  const Four<Stored> four = *reinterpret_cast<const Four<Stored>*>(at);
  return make_float4(load(four.x[0]), load(four.x[1]), load(four.x[2]), load(four.x[3]));
}

struct Voxel {
  int i, j, k;
};

__device__ __forceinline__ Voxel position(const int64_t* positions, int64_t point, int dims) {
  const int64_t* at = positions + point * dims;
  return {dims == 3 ? static_cast<int>(at[0]) : 0, static_cast<int>(at[dims - 2]), static_cast<int>(at[dims - 1])};
}

__device__ __forceinline__ int kept(int x, int n) { return min(max(x, 0), n - 1); }

// Copies the patch of point number `point` (of all images) to `patch`: samples of the patch, first axis slowest, with their groups of channels.
__device__ __forceinline__ void load_patch(const Search& s, const void* fixed, StoredAs stored, int64_t point, float4* patch, int thread, int threads) {
  const Voxel x = position(s.keypoints, point, s.dims);
  const int side = 2 * s.patch_radius + 1, all = s.samples() * s.groups;
  const int64_t voxels = s.fixed.voxels();
  as_stored(fixed, stored, [&](auto* features) {
    features += point / s.points * s.groups * voxels * 4;
    for (int n = thread; n < all; n += threads) {
      const int group = n % s.groups, p = n / s.groups;
      const int i = kept(x.i + (p / (side * side) - s.patch_radius_i) * s.patch_stride, s.fixed.ni);
      const int j = kept(x.j + (p / side % side - s.patch_radius) * s.patch_stride, s.fixed.nj);
      const int k = kept(x.k + (p % side - s.patch_radius) * s.patch_stride, s.fixed.nk);
      patch[n] = load_four(features + (group * voxels + s.fixed.row(i, j) + k) * 4);
    }
  });
}

__device__ __forceinline__ float squares(const float4& x) { return x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w; }

template <Metric metric>
__device__ __forceinline__ float product(const float4& f, const float4& m) {
  if constexpr (metric == Metric::ssd) {
    return squares(make_float4(f.x - m.x, f.y - m.y, f.z - m.z, f.w - m.w));
  } else {
    return f.x * m.x + f.y * m.y + f.z * m.z + f.w * m.w;
  }
}

// The length of a patch, summed by a warp's lanes; all of them get it.
__device__ __forceinline__ float patch_norm(const float4* patch, int count, int lane) {
  float sum = 0.0f;
  for (int n = lane; n < count; n += kWarpSize) sum += squares(patch[n]);
  for (int apart = kWarpSize / 2; apart; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  return sqrtf(sum);
}

// values: similarities of the displacements (di, dj + 0 .. kEach - 1, dk), counted from the corner of the cube, those beyond it without a meaning.
// y: the center, moving: the features of its image. fixed_norm: of the patch, for the cosine.
template <Metric metric, int kEach, class Stored>
__device__ __forceinline__ void similarities(const Search& s, const Stored* moving, const Voxel& y, const float4* patch, float fixed_norm, int di, int dj, int dk, float (&values)[kEach]) {
  const int side = 2 * s.patch_radius + 1;
  const int64_t voxels = s.moving.voxels();
  const int i0 = y.i + (di - s.radius_i()) * s.stride, j0 = y.j + (dj - s.radius()) * s.stride, k0 = y.k + (dk - s.radius()) * s.stride;
  const bool shared = s.patch_stride == s.stride || s.patch_radius == 0;
  float sums[kEach] = {}, norms[kEach] = {};
  for (int pi = -s.patch_radius_i; pi <= s.patch_radius_i; ++pi) {
    const int i = kept(i0 + pi * s.patch_stride, s.moving.ni);
    for (int pk = -s.patch_radius; pk <= s.patch_radius; ++pk) {
      const int k = kept(k0 + pk * s.patch_stride, s.moving.nk);
      const float4* column = patch + ((pi + s.patch_radius_i) * side * side + pk + s.patch_radius) * s.groups;  // of the patch's first row
      // Adds a sample, which is in row `pj` of the patch for displacement `each` of the run.
      const auto add = [&](const float4& m, int each, int pj, int group) {
        sums[each] += product<metric>(column[(pj + s.patch_radius) * side * s.groups + group], m);
        if constexpr (metric == Metric::cosine) norms[each] += squares(m);
      };
      if (shared) {
        for (int row = -s.patch_radius; row < s.patch_radius + kEach; ++row) {
          const Stored* at = moving + (s.moving.row(i, kept(j0 + row * s.stride, s.moving.nj)) + k) * 4;
#pragma unroll 4
          for (int group = 0; group < s.groups; ++group, at += voxels * 4) {
            const float4 m = load_four(at);
#pragma unroll
            for (int each = 0; each < kEach; ++each)
              if (row - each >= -s.patch_radius && row - each <= s.patch_radius) add(m, each, row - each, group);
          }
        }
      } else {
        for (int pj = -s.patch_radius; pj <= s.patch_radius; ++pj)
#pragma unroll
          for (int each = 0; each < kEach; ++each) {
            const Stored* at = moving + (s.moving.row(i, kept(j0 + each * s.stride + pj * s.patch_stride, s.moving.nj)) + k) * 4;
            for (int group = 0; group < s.groups; ++group, at += voxels * 4) add(load_four(at), each, pj, group);
          }
      }
    }
  }
#pragma unroll
  for (int each = 0; each < kEach; ++each) {
    if constexpr (metric == Metric::cosine) values[each] = sums[each] / (fixed_norm * sqrtf(norms[each]) + static_cast<float>(kCosineEps));
    else values[each] = sums[each] / static_cast<float>(s.samples());
  }
}

template <class F>
void for_metric(Metric metric, F&& f) {
  choose(metric, std::integer_sequence<Metric, Metric::ssd, Metric::dot, Metric::cosine>(), f);
}

}  // namespace regkit::cuda
