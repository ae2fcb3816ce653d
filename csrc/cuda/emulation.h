// Kernels of csrc/cuda on a CPU, as they are: what nvcc has built in, written out for a C++ compiler. For tests on machines without a GPU.
//
// A block's threads are fibers of one system thread. They run one after another, each up to its next barrier, in an order that
// REGKIT_EMULATED_ORDER sets (forward, backward, shuffled): a barrier that is missing shows as a result that depends on the order.
// What a GPU would let pass, or hang on, is an error here: threads of a block at different barriers, or gone while others wait.
// Shared memory is not cleared: it holds what the block before left there, and dynamic memory holds NaNs.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __shared__ static
#define __syncthreads() ::regkit::emulation::Block::current->wait(::regkit::emulation::kBlockBarrier + __LINE__)
#define __syncwarp() ::regkit::emulation::Block::current->wait(::regkit::emulation::kWarpBarrier + __LINE__)

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace regkit::emulation {

constexpr int kWarp = 32, kStack = 1 << 16;
constexpr int kBlockBarrier = 1 << 20, kWarpBarrier = 1 << 21;  // and the line of the barrier

class Block {
 public:
  static inline Block* current = nullptr;

  Block(std::function<void()> kernel, size_t shared_bytes) : kernel_(std::move(kernel)), shared_(shared_bytes / 4 + 4, std::nanf("")) {
    const char* order = std::getenv("REGKIT_EMULATED_ORDER");
    order_ = order ? order : "forward";
  }

  float* shared() { return shared_.data(); }
  uint64_t& slot(int lane) { return slots_[(index_ / kWarp) * kWarp + lane]; }
  int lane() const { return index_ % kWarp; }
  int lanes() const { return std::min<int>(kWarp, static_cast<int>(fibers_.size()) - index_ / kWarp * kWarp); }

  // A thread's way to a barrier; back when all whom it waits for are there.
  void wait(int barrier) {
    fibers_[index_].barrier = barrier;
    swapcontext(&fibers_[index_].context, &scheduler_);
  }

  void run() {
    const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    fibers_.resize(threads);
    slots_.resize(threads + kWarp);
    std::fill(shared_.begin(), shared_.end(), std::nanf(""));
    for (int n = 0; n < threads; ++n) {
      Fiber& fiber = fibers_[n];
      fiber.stack.resize(kStack);
      fiber.barrier = 0;
      fiber.ended = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &scheduler_;
      makecontext(&fiber.context, &Block::enter, 0);
    }
    std::vector<int> turns(threads);
    for (int n = 0; n < threads; ++n) turns[n] = order_ == "backward" ? threads - 1 - n : n;
    for (bool left = true; left;) {
      if (order_ == "shuffled") std::shuffle(turns.begin(), turns.end(), random_);
      left = false;
      bool moved = false;
      for (const int n : turns) {
        if (fibers_[n].ended) continue;
        left = true;
        if (fibers_[n].barrier) continue;
        moved = true;
        resume(n);
      }
      if (left) release(moved);
    }
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    int barrier = 0;
    bool ended = false;
  };

  static void enter() {
    current->kernel_();
    current->fibers_[current->index_].ended = true;
  }

  void resume(int n) {
    index_ = n;
    threadIdx = dim3(n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y));
    swapcontext(&scheduler_, &fibers_[n].context);
  }

  // Lets go the groups that are complete: warps at a barrier of warps, the block at one of the block.
  void release(bool moved) {
    const int threads = static_cast<int>(fibers_.size());
    bool released = group(0, threads, kBlockBarrier);
    for (int first = 0; first < threads && !released; first += kWarp) {
      moved |= group(first, std::min(first + kWarp, threads), kWarpBarrier);
    }
    if (!released && !moved) throw std::runtime_error("emulated CUDA: threads of a block wait at different barriers, or some ended before one");
  }

  bool group(int first, int last, int kind) {
    const int barrier = fibers_[first].barrier;
    if (!(barrier & kind)) return false;
    for (int n = first; n < last; ++n)
      if (fibers_[n].ended || fibers_[n].barrier != barrier) return false;
    for (int n = first; n < last; ++n) fibers_[n].barrier = 0;
    return true;
  }

  std::function<void()> kernel_;
  std::vector<float> shared_;
  std::string order_;
  std::mt19937 random_{0};
  std::vector<Fiber> fibers_;
  std::vector<uint64_t> slots_;
  ucontext_t scheduler_;
  int index_ = 0;
};

inline void run(dim3 grid, dim3 block, size_t shared_bytes, std::function<void()> kernel) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  gridDim = grid;
  blockDim = block;
  Block emulated(std::move(kernel), shared_bytes);
  Block::current = &emulated;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        emulated.run();
      }
}

// The value that another lane of the warp has; all lanes take part.
template <class T>
T shuffle(T value, int from) {
  Block& block = *Block::current;
  static_assert(sizeof(T) <= sizeof(uint64_t));
  std::memcpy(&block.slot(block.lane()), &value, sizeof(T));
  block.wait(kWarpBarrier);
  if (from >= 0 && from < block.lanes()) std::memcpy(&value, &block.slot(from), sizeof(T));
  block.wait(kWarpBarrier + 1);
  return value;
}

// A float32 without the 13 bits that tensor cores do not look at.
inline float upper_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  bits &= 0xffffe000u;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// What mma.m16n8k8 computes of tf32 factors; lanes hold what cuda/tensor_cores.h says.
inline void multiply_add(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  Block& block = *Block::current;
  const float factors[6] = {upper_bits(a[0]), upper_bits(a[1]), upper_bits(a[2]), upper_bits(a[3]), upper_bits(b[0]), upper_bits(b[1])};
  block.slot(block.lane()) = reinterpret_cast<uint64_t>(factors);
  block.wait(kWarpBarrier + 2);
  const auto of = [&](int lane, int n) { return reinterpret_cast<const float*>(block.slot(lane))[n]; };
  const int g = block.lane() / 4, t = block.lane() % 4;
  for (int n = 0; n < 4; ++n)
    for (int k = 0; k < 8; ++k) c[n] += of(g * 4 + k % 4, n / 2 + k / 4 * 2) * of((2 * t + n % 2) * 4 + k % 4, 4 + k / 4);
  block.wait(kWarpBarrier + 3);
}

}  // namespace regkit::emulation

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return regkit::emulation::shuffle(value, regkit::emulation::Block::current->lane() ^ mask);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int by) {
  return regkit::emulation::shuffle(value, regkit::emulation::Block::current->lane() + by);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int by) {
  return regkit::emulation::shuffle(value, regkit::emulation::Block::current->lane() - by);
}

// Fibers change places at barriers only: nothing can come between.
template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}
inline void atomicAdd(float4* at, float4 value) { *at = {at->x + value.x, at->y + value.y, at->z + value.z, at->w + value.w}; }
template <class T>
T __ldg(const T* at) {
  return *at;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __int_as_float(int x) {
  float bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
