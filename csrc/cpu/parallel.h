// A small thread pool. torch bundles an OpenMP runtime of its own and a second one beside it would fight over the cores, so jobs run on plain threads.
//
// parallel_for(jobs, threads, f) calls f(job) once for every job in [0, jobs). Which thread runs a job is left open, so a kernel must not let
// its result depend on it: reductions go to one slot a job and are added in order, which makes every result independent of the thread count.
#pragma once
#include <cstdint>
#include <type_traits>

namespace regkit {

void run_jobs(int64_t jobs, int threads, void (*call)(void*, int64_t), void* context);

template <class Function>
void parallel_for(int64_t jobs, int threads, Function&& function) {
  using F = std::remove_reference_t<Function>;
  run_jobs(jobs, threads, [](void* context, int64_t job) { (*static_cast<F*>(context))(job); }, const_cast<void*>(static_cast<const void*>(&function)));
}

// Jobs of about `grain` items each: job j covers [begin, end) of `items`.
struct Chunks {
  int64_t items, grain;
  int64_t count() const { return (items + grain - 1) / grain; }
  int64_t begin(int64_t job) const { return job * grain; }
  int64_t end(int64_t job) const { return (job + 1) * grain < items ? (job + 1) * grain : items; }
};

}  // namespace regkit
