// What every kernel of csrc/cuda builds on: types as stored and as computed with, offsets, launches.
//
// The same sources are compiled by nvcc for GPUs and, with REGKIT_EMULATE_CUDA, by a C++ compiler for tests on the CPU (emulation.h). No torch
// header: tensors come as addresses, the stream as a number.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "core/inline.h"

#ifdef REGKIT_EMULATE_CUDA
#include "cpu/storage.h"
#include "cuda/emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace regkit::cuda {

using Stream = uintptr_t;  // torch.cuda.current_stream().cuda_stream

#ifdef REGKIT_EMULATE_CUDA
using regkit::arithmetic;
using regkit::bfloat16;
using regkit::float16;
using regkit::load;
using regkit::store;
#else
using float16 = __half;
using bfloat16 = __nv_bfloat16;

template <class Stored>
struct Arithmetic {
  using type = float;
};
template <>
struct Arithmetic<double> {
  using type = double;
};
template <class Stored>
using arithmetic = typename Arithmetic<Stored>::type;
#endif

#ifdef __CUDACC__
__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(float16 x) { return __half2float(x); }
__device__ __forceinline__ float load(bfloat16 x) { return __bfloat162float(x); }

template <class Stored>
__device__ __forceinline__ Stored store(arithmetic<Stored> x) {
  if constexpr (std::is_same_v<Stored, float16>) return __float2half_rn(x);
  else if constexpr (std::is_same_v<Stored, bfloat16>) return __float2bfloat16_rn(x);
  else return x;
}
#endif

constexpr int kWarpSize = 32;
constexpr int64_t kResidentBlocks = 8 * 132;  // about as many as an H200 runs at once: for kernels that loop, or mostly end at once

template <class T>
REGKIT_INLINE constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

#if defined(__CUDACC__) || defined(REGKIT_EMULATE_CUDA)
// kernel<<<blocks, threads, shared_bytes, stream>>>(arguments...). Raises what CUDA says of it.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes, Stream stream, Arguments&&... arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::runtime_error("too many blocks for one launch: " + std::to_string(blocks));
#ifdef REGKIT_EMULATE_CUDA
  (void)stream;
  emulation::run(dim3(static_cast<unsigned>(blocks)), threads, shared_bytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
#else
  if (shared_bytes > 32 << 10) {  // more than 48 KB with what a kernel declares must be asked for
    const cudaError_t raised = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (raised != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(raised));
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, reinterpret_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
  const cudaError_t launched = cudaGetLastError();
  if (launched != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(launched));
#endif
}

// The block's dynamic shared memory.
#ifdef REGKIT_EMULATE_CUDA
template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::Block::current->shared());
}
#else
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char regkit_dynamic_shared[];
  return reinterpret_cast<T*>(regkit_dynamic_shared);
}
#endif
#endif  // bindings see none of it

// f(std::integral_constant<...>) of a value known at run time, one of `values`: what is chosen there is compiled for each.
template <class T, T... values, class F>
void choose(T value, std::integer_sequence<T, values...>, F&& f) {
  const bool known = ((value == values ? (f(std::integral_constant<T, values>()), true) : false) || ...);
  if (!known) throw std::runtime_error("no kernel is compiled for the value " + std::to_string(static_cast<int64_t>(value)));
}

}  // namespace regkit::cuda
