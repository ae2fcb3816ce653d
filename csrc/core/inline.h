// REGKIT_INLINE: what every function of core/ is, so that CPU code and CUDA (or HIP) kernels share one copy of each formula. On the CPU a formula
// that is called and not inlined costs its loop the vector registers, so the compiler is not asked for its opinion.
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define REGKIT_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define REGKIT_INLINE inline __attribute__((always_inline))
#else
#define REGKIT_INLINE inline
#endif
