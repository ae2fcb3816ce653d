// Products of small matrices of float32 on tensor cores, which round factors to 11 bits: each factor is split into what they keep and the rest, and
// three products are added (the rests' own product lies below float32). Errors are those of float32.
#pragma once
#include "cuda/device.h"

namespace regkit::cuda {

struct Split {
  float kept, rest;
};

// kept: the upper bits, which the tensor core takes as they are. An infinity has no rest.
__device__ __forceinline__ Split split(float x) {
#ifdef REGKIT_EMULATE_CUDA
  const float kept = emulation::upper_bits(x);
#else
  const float kept = __uint_as_float(__float_as_uint(x) & 0xffffe000u);
#endif
  return {kept, x == kept ? 0.0f : x - kept};
}

// c += a b of a warp: a 16 x 8, b 8 x 8, c 16 x 8, of which each lane has, with g = lane / 4, t = lane % 4,
//   a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)      b: (t, g), (t + 4, g)      c: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
__device__ __forceinline__ void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
#ifdef REGKIT_EMULATE_CUDA
  emulation::multiply_add(c, a, b);
#else
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
#endif
}

struct SplitA {
  float kept[4], rest[4];
  __device__ __forceinline__ void set(int n, float x) {
    const Split parts = split(x);
    kept[n] = parts.kept, rest[n] = parts.rest;
  }
};

struct SplitB {
  float kept[2], rest[2];
  __device__ __forceinline__ void set(int n, float x) {
    const Split parts = split(x);
    kept[n] = parts.kept, rest[n] = parts.rest;
  }
};

// The same of float32.
__device__ __forceinline__ void multiply_add(float (&c)[4], const SplitA& a, const SplitB& b) {
  multiply_add(c, a.rest, b.kept);
  multiply_add(c, a.kept, b.rest);
  multiply_add(c, a.kept, b.kept);
}

}  // namespace regkit::cuda
