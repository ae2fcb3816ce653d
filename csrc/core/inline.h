// REGKIT_INLINE: what every function of core/ is, so that CPU code and CUDA (or HIP) kernels share one copy of each formula.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define REGKIT_INLINE __host__ __device__ __forceinline__
#else
#define REGKIT_INLINE inline
#endif
