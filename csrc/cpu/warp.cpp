// Warp on the CPU. Bytes a voxel (3-D, float32, one channel): forward 12 (u) + 4 (gather, cached) + 4 (out) = 20; backward to u 12 + 8 + 12 = 32.
//
// Rows of the output, which run along the fast axis k, are cut into blocks of kLanes voxels: see warp_block.h.
#include "warp.h"

#include <algorithm>
#include <vector>

#include "cpu/convert.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"
#include "cpu/warp_block.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 64;

template <class Index, int D, class Stored, class T = arithmetic<Stored>>
void forward_rows(const Stored* image, const T* u, Stored* out, const WarpSizes& s, int padding, T fill, int64_t begin, int64_t end) {
  const int64_t voxels = s.output_voxels(), image_voxels = s.image_voxels(), nk = s.output[2];
  WarpBlock<D, Index, T> block(s, padding);
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(s, r);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      block.locate(u + row.b * D * voxels, row, k0, lanes);
      for (int64_t c = 0; c < s.channels; ++c) {
        alignas(64) T value[kLanes];
        block.template sample<true, false>(image + (row.b * s.channels + c) * image_voxels, fill, value, nullptr);
        Stored* target = out + (row.b * s.channels + c) * voxels + row.offset + k0;
        if (lanes == kLanes) {
          for (int l = 0; l < kLanes; l += kLaneCount<T>) store_from_lanes(target + l, load_lanes(value + l));
        } else {
          for (int l = 0; l < lanes; ++l) target[l] = store<Stored>(value[l]);
        }
      }
    }
  }
}

template <class Index, int D, class Stored, class T = arithmetic<Stored>>
void grad_displacement_rows(const Stored* grad_out, const Stored* image, const T* u, T* grad_u, const WarpSizes& s, int padding, T fill, int64_t begin, int64_t end) {
  const int64_t voxels = s.output_voxels(), image_voxels = s.image_voxels(), nk = s.output[2];
  WarpBlock<D, Index, T> block(s, padding);
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(s, r);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      block.locate(u + row.b * D * voxels, row, k0, lanes);
      alignas(64) T total[D][kLanes] = {};
      for (int64_t c = 0; c < s.channels; ++c) {
        const Stored* g_row = grad_out + (row.b * s.channels + c) * voxels + row.offset + k0;
        alignas(64) T g[kLanes], slope[D][kLanes];
        if (lanes == kLanes) {
          for (int l = 0; l < kLanes; l += kLaneCount<T>) store_lanes(g + l, load_as_lanes(g_row + l));
        } else {
          for (int l = 0; l < kLanes; ++l) g[l] = l < lanes ? load(g_row[l]) : T(0);
        }
        block.template sample<false, true>(image + (row.b * s.channels + c) * image_voxels, fill, nullptr, slope);
        for (int d = 0; d < D; ++d)
          for (int l = 0; l < kLanes; ++l) total[d][l] += g[l] * slope[d][l];
      }
      for (int d = 0; d < D; ++d) {
        T* target = grad_u + (row.b * D + d) * voxels + row.offset + k0;
        if (lanes == kLanes) {
          for (int l = 0; l < kLanes; ++l) target[l] = total[d][l];
        } else {
          for (int l = 0; l < lanes; ++l) target[l] = total[d][l];
        }
      }
    }
  }
}

// Adds the rows [begin, end) of the output to the image planes [slab_begin, slab_end) along the first axis in use (i in 3-D, j in 2-D).
template <int D, Padding padding, class T>
void scatter_rows(const T* grad_out, const T* u, T* grad_image, const WarpSizes& s, int64_t begin, int64_t end, int64_t slab_begin, int64_t slab_end) {
  const int64_t voxels = s.output_voxels(), image_voxels = s.image_voxels(), nk = s.output[2], nj = s.image[1];
  Block<D, T> block;
  for (int64_t r = begin; r < end; ++r) {
    const Row row = row_at(s, r);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      locate<D, padding>(block, u + row.b * D * voxels, voxels, row, k0, lanes, s);
      for (int l = 0; l < lanes; ++l) {
        for (int first = 0; first < 2; ++first) {
          const int64_t plane = first ? block.high[0][l] : block.low[0][l];
          const T w_first = first ? block.weight_high[0][l] : block.weight_low[0][l];
          if (plane < slab_begin || plane >= slab_end || w_first == 0) continue;
          for (int second = 0; second < (D == 3 ? 2 : 1); ++second) {
            const T w_row = D == 3 ? w_first * (second ? block.weight_high[1][l] : block.weight_low[1][l]) : w_first;
            const int64_t base = D == 3 ? (plane * nj + (second ? block.high[1][l] : block.low[1][l])) * s.image[2] : plane * s.image[2];
            for (int64_t c = 0; c < s.channels; ++c) {
              const T g = w_row * grad_out[(row.b * s.channels + c) * voxels + row.offset + k0 + l];
              T* target = grad_image + (row.b * s.channels + c) * image_voxels + base;
              target[block.low[D - 1][l]] += g * block.weight_low[D - 1][l];
              target[block.high[D - 1][l]] += g * block.weight_high[D - 1][l];
            }
          }
        }
      }
    }
  }
}

// The first and last image plane that each output row touches, so that a slab visits only the rows that reach it.
template <int D, Padding padding, class T>
void row_reach(const T* u, const WarpSizes& s, int64_t r, int32_t& low, int32_t& high) {
  const int64_t voxels = s.output_voxels();
  const Row row = row_at(s, r);
  const T* u0 = u + row.b * D * voxels + row.offset;
  const T origin = D == 3 ? T(row.i) : T(row.j);
  const int32_t n = static_cast<int32_t>(s.image[3 - D]);
  low = n;
  high = -1;
  for (int64_t k = 0; k < s.output[2]; ++k) {
    const AxisSample<T> a = axis_sample<padding>(origin + u0[k], n);
    low = std::min(low, a.low);
    high = std::max(high, a.high);
  }
}

template <int D, Padding padding, class T>
void grad_image_by_slab(const T* grad_out, const T* u, T* grad_image, const WarpSizes& s, int threads) {
  const int64_t rows = s.output[0] * s.output[1], planes = s.image[3 - D];
  std::vector<int32_t> low(s.batch * rows), high(s.batch * rows);
  const Chunks chunks{s.batch * rows, kRowsPerJob};
  parallel_for(chunks.count(), threads, [&](int64_t job) {
    for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) row_reach<D, padding>(u, s, r, low[r], high[r]);
  });
  const Chunks slabs{planes, std::max<int64_t>(1, planes / 16)};
  parallel_for(s.batch * slabs.count(), threads, [&](int64_t job) {
    const int64_t b = job / slabs.count(), slab = job % slabs.count();
    const int64_t first = slabs.begin(slab), last = slabs.end(slab);
    const int64_t plane_voxels = s.image_voxels() / planes;
    for (int64_t c = 0; c < s.channels; ++c) {
      T* channel = grad_image + (b * s.channels + c) * s.image_voxels();
      std::fill(channel + first * plane_voxels, channel + last * plane_voxels, T(0));
    }
    for (int64_t r = b * rows; r < (b + 1) * rows; ++r)
      if (low[r] < last && high[r] >= first) scatter_rows<D, padding>(grad_out, u, grad_image, s, r, r + 1, first, last);
  });
}

}  // namespace

template <class Stored, class T>
void warp_linear(const Stored* image, const T* displacement, Stored* out, const WarpSizes& s, int padding, T fill, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  const Chunks chunks{s.batch * s.output[0] * s.output[1], kRowsPerJob};
  for_dims_and_index(s, [&](auto dims, auto index) {
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      forward_rows<decltype(index), dims.value>(image, displacement, out, s, padding, fill, chunks.begin(job), chunks.end(job));
    });
  });
}

template <class Stored, class T>
void warp_grad_displacement(const Stored* grad_out, const Stored* image, const T* displacement, T* grad_displacement, const WarpSizes& s, int padding, T fill, int threads) {
  advise_large_pages(grad_displacement, s.batch * s.dims * s.output_voxels());
  const Chunks chunks{s.batch * s.output[0] * s.output[1], kRowsPerJob};
  for_dims_and_index(s, [&](auto dims, auto index) {
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      grad_displacement_rows<decltype(index), dims.value>(grad_out, image, displacement, grad_displacement, s, padding, fill, chunks.begin(job), chunks.end(job));
    });
  });
}

template <class T>
void warp_grad_image(const T* grad_out, const T* displacement, T* grad_image, const WarpSizes& s, int padding, int threads) {
  advise_large_pages(grad_image, s.batch * s.channels * s.image_voxels());
  for_dims_and_padding(s, padding, [&](auto dims, auto pad) { grad_image_by_slab<dims.value, pad.value>(grad_out, displacement, grad_image, s, threads); });
}

template <class Element>
void warp_nearest(const Element* image, const float* displacement, Element* out, const WarpSizes& s, int padding, Element fill, int threads) {
  advise_large_pages(out, s.batch * s.channels * s.output_voxels());
  const int64_t voxels = s.output_voxels(), image_voxels = s.image_voxels(), nk = s.output[2];
  const Chunks chunks{s.batch * s.output[0] * s.output[1], kRowsPerJob};
  for_dims_and_padding(s, padding, [&](auto dims, auto pad) {
    constexpr int D = dims.value;
    parallel_for(chunks.count(), threads, [&](int64_t job) {
      for (int64_t r = chunks.begin(job); r < chunks.end(job); ++r) {
        const Row row = row_at(s, r);
        const float* u = displacement + row.b * D * voxels + row.offset;
        for (int64_t k = 0; k < nk; ++k) {
          const int32_t i = D == 3 ? axis_nearest<pad.value>(float(row.i) + u[k], int32_t(s.image[0])) : 0;
          const int32_t j = axis_nearest<pad.value>(float(row.j) + u[(D - 2) * voxels + k], int32_t(s.image[1]));
          const int32_t m = axis_nearest<pad.value>(float(k) + u[(D - 1) * voxels + k], int32_t(s.image[2]));
          const bool inside = i >= 0 && j >= 0 && m >= 0;
          const int64_t source = inside ? (i * s.image[1] + j) * s.image[2] + m : 0;
          for (int64_t c = 0; c < s.channels; ++c) {
            const int64_t plane = row.b * s.channels + c;
            out[plane * voxels + row.offset + k] = inside ? image[plane * image_voxels + source] : fill;
          }
        }
      }
    });
  });
}

#define REGKIT_INSTANTIATE(S, T)                                                                          \
  template void warp_linear(const S*, const T*, S*, const WarpSizes&, int, T, int);                 \
  template void warp_grad_displacement(const S*, const S*, const T*, T*, const WarpSizes&, int, T, int);
REGKIT_INSTANTIATE(float, float)
REGKIT_INSTANTIATE(double, double)
REGKIT_INSTANTIATE(float16, float)
REGKIT_INSTANTIATE(bfloat16, float)
#undef REGKIT_INSTANTIATE
template void warp_grad_image(const float*, const float*, float*, const WarpSizes&, int, int);
template void warp_grad_image(const double*, const double*, double*, const WarpSizes&, int, int);
template void warp_nearest<uint8_t>(const uint8_t*, const float*, uint8_t*, const WarpSizes&, int, uint8_t, int);
template void warp_nearest<uint16_t>(const uint16_t*, const float*, uint16_t*, const WarpSizes&, int, uint16_t, int);
template void warp_nearest<uint32_t>(const uint32_t*, const float*, uint32_t*, const WarpSizes&, int, uint32_t, int);
template void warp_nearest<uint64_t>(const uint64_t*, const float*, uint64_t*, const WarpSizes&, int, uint64_t, int);

}  // namespace regkit
