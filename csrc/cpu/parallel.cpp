// The thread pool behind parallel_for: workers wait for a batch, take jobs from a shared counter, and report back.
#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#define REGKIT_PAUSE() _mm_pause()
#else
#define REGKIT_PAUSE() std::this_thread::yield()
#endif

namespace regkit {
namespace {

struct Batch {
  void (*call)(void*, int64_t);
  void* context;
  int64_t jobs;
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};
  std::mutex error_mutex;
  std::exception_ptr error;

  void work() {
    try {
      for (int64_t job; (job = next.fetch_add(1)) < jobs;) call(context, job);
    } catch (...) {
      next.store(jobs);
      std::lock_guard<std::mutex> lock(error_mutex);
      if (!error) error = std::current_exception();
    }
  }
};

class Pool {
 public:
  void run(Batch& batch, int helpers) {
    while (static_cast<int>(threads_.size()) < helpers) {
      int index = static_cast<int>(threads_.size());
      threads_.emplace_back([this, index] { serve(index); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      batch_ = &batch;
      wanted_ = helpers;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    batch.work();
    {
      // All jobs are taken: a helper that has not come yet (the cores may be busy elsewhere) is not waited for.
      std::lock_guard<std::mutex> lock(mutex_);
      batch_ = nullptr;
    }
    for (int spin = 0; batch.running.load(std::memory_order_acquire) > 0; ++spin) {
      if (spin < kSpins) REGKIT_PAUSE();
      else std::this_thread::yield();
    }
  }

 private:
  // Spinning for some tens of microseconds bridges the gap between two ops of an optimisation step; after that the thread sleeps.
  static constexpr int kSpins = 2000;

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && generation_.load(std::memory_order_acquire) == seen; ++spin) REGKIT_PAUSE();
      Batch* batch;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
        seen = generation_.load(std::memory_order_relaxed);
        batch = index < wanted_ ? batch_ : nullptr;
        if (batch) batch->running.fetch_add(1, std::memory_order_relaxed);
      }
      if (!batch) continue;
      batch->work();
      batch->running.fetch_sub(1, std::memory_order_release);
    }
  }

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};
  Batch* batch_ = nullptr;
  int wanted_ = 0;
};

std::mutex* pool_mutex = new std::mutex;
Pool* pool = nullptr;

// A forked child has none of its parent's threads: it starts with a fresh pool. The old one is left alone, its threads are not there to join.
void after_fork() {
  pool_mutex = new std::mutex;
  pool = nullptr;
}

}  // namespace

void run_jobs(int64_t jobs, int threads, void (*call)(void*, int64_t), void* context) {
  if (jobs <= 0) return;
  Batch batch;
  batch.call = call;
  batch.context = context;
  batch.jobs = jobs;
  int helpers = static_cast<int>(jobs < threads ? jobs : threads) - 1;
  // A second caller (another Python thread) does not wait for the pool: it works alone, with the same result.
  std::unique_lock<std::mutex> lock(*pool_mutex, std::defer_lock);
  if (helpers > 0 && lock.try_lock()) {
    if (!pool) {
      static int registered = pthread_atfork(nullptr, nullptr, after_fork);
      (void)registered;
      pool = new Pool;  // lives as long as the process: joining threads while the interpreter shuts down is a known way to hang
    }
    pool->run(batch, helpers);
  } else {
    batch.work();
  }
  if (batch.error) std::rethrow_exception(batch.error);
}

}  // namespace regkit
