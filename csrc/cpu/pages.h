// Large outputs come fresh from the system, and each of their 4 KB pages costs a fault when it is first written: for a volume of 7 million voxels about
// as much time as computing it. Asking for 2 MB pages first makes that 500 times fewer. It is advice: where the system does not follow, nothing changes.
#pragma once
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace regkit {

template <class T>
inline void advise_large_pages([[maybe_unused]] T* output, [[maybe_unused]] int64_t elements) {
#if defined(__linux__)
  constexpr uintptr_t kPage = uintptr_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(output) + kPage - 1) / kPage * kPage;  // only pages that are the output's alone
  const uintptr_t end = (reinterpret_cast<uintptr_t>(output) + static_cast<uintptr_t>(elements) * sizeof(T)) / kPage * kPage;
  if (output && end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

}  // namespace regkit
