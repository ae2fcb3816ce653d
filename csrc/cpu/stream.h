// Copies to large outputs past the caches. An ordinary store first reads the line that it writes to, and pushes other data out of the
// cache, for a line that nobody reads before it is gone itself: whole lines written past the caches cost a third of that.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace regkit {

// From this size on an output does not stay in the caches until it is read.
constexpr int64_t kStreamedBytes = int64_t(16) << 20;

// memcpy, whole lines of the target past the caches. Call end_stream() before another thread may read them.
inline void stream(void* target, const void* source, int64_t bytes) {
#if defined(__SSE2__)
  constexpr int64_t kLine = 64;
  char* to = static_cast<char*>(target);
  const char* from = static_cast<const char*>(source);
  const int64_t head = std::min<int64_t>(bytes, -reinterpret_cast<uintptr_t>(to) % kLine);
  std::memcpy(to, from, head);
  int64_t at = head;
  for (; at + kLine <= bytes; at += kLine)
    for (int64_t part = 0; part < kLine; part += 16)
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at + part), _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at + part)));
  std::memcpy(to + at, from + at, bytes - at);
#else
  std::memcpy(target, source, bytes);
#endif
}

inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace regkit
