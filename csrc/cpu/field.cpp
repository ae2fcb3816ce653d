// Packing, and one displacement after another. Bytes a voxel (3-D, float32) of u o u: 12 read (and its samples, cached) + 12 written = 24.
#include "field.h"

#include "cpu/field_block.h"
#include "cpu/pages.h"
#include "cpu/parallel.h"

namespace regkit {
namespace {

constexpr int64_t kRowsPerJob = 32, kVoxelsPerJob = 1 << 14;

template <int D, class Index, class T, class In, class Out>
void compose_rows(const T* u, const In& v, const Out& out, const FieldSizes& s, int64_t begin, int64_t end) {
  const Extent<D> field(s.field), output(s.output);
  const Runs<D> runs(field);
  const int64_t nk = output.n[D - 1], field_voxels = field.voxels();
  Samples<D, Index, T> samples;
  alignas(64) T c[D][kLanes], value[kLanes * D + 1];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / output.rows(), row = r % output.rows();
    int64_t at[D];
    output.row(row, at);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t voxel = row * nk + k0;
      coordinates(v, b, voxel, at, k0, lanes, c);
      locate(samples, c, field, runs, (s.batch - b) * field_voxels);
      sample(samples, u + b * field_voxels * D, field, runs, lanes, value);
      const auto store = [&](int count) {
        const T* source = v.at(b, voxel);
        T* target = out.at(b, voxel);
        if constexpr (In::kStep == D && Out::kStep == D) {
          for (int n = 0; n < count * D; ++n) target[n] = source[n] + value[n];
        } else {
          for (int d = 0; d < D; ++d)
            for (int l = 0; l < count; ++l) target[d * out.component + l * Out::kStep] = source[d * v.component + l * In::kStep] + value[l * D + d];
        }
      };
      if (lanes == kLanes) store(kLanes);
      else store(lanes);
    }
  }
}

template <int D, class T, class Call>
void with_layout(T* data, bool packed, int64_t voxels, Call&& call) {
  if (packed) call(packed_layout<D>(data, voxels));
  else call(planar_layout<D>(data, voxels));
}

// to = scale * from, for fields of any layouts.
template <int D, class From, class To, class T>
void copy_field(const From& from, const To& to, int64_t batch, int64_t voxels, T scale, int threads) {
  const Chunks chunks{voxels, kVoxelsPerJob};
  parallel_for(batch * chunks.count(), threads, [&](int64_t job) {
    const int64_t b = job / chunks.count(), part = job % chunks.count();
    for (int64_t x = chunks.begin(part); x < chunks.end(part); x += kLanes) {
      const auto copy = [&](int count) {
        const auto* source = from.at(b, x);
        T* target = to.at(b, x);
        for (int d = 0; d < D; ++d)
          for (int l = 0; l < count; ++l) target[d * to.component + l * To::kStep] = scale * source[d * from.component + l * From::kStep];
      };
      if (x + kLanes <= chunks.end(part)) copy(kLanes);
      else copy(static_cast<int>(chunks.end(part) - x));
    }
  });
}

template <class Call>
void with_dims(int dims, Call&& call) {
  if (dims == 3) call(std::integral_constant<int, 3>{});
  else call(std::integral_constant<int, 2>{});
}

}  // namespace

template <class T>
void field_pack(const T* planar, T* packed, int dims, int64_t batch, int64_t voxels, T scale, int threads) {
  advise_large_pages(packed, batch * dims * voxels);
  with_dims(dims, [&](auto D) { copy_field<D>(planar_layout<D>(planar, voxels), packed_layout<D>(packed, voxels), batch, voxels, scale, threads); });
}

template <class T>
void field_unpack_sums(const T* sums, T* planar, int dims, int64_t batch, int64_t voxels, T scale, int threads) {
  advise_large_pages(planar, batch * dims * voxels);
  with_dims(dims, [&](auto D) { copy_field<D>(packed_layout<kWidth<D>>(sums, voxels), planar_layout<D>(planar, voxels), batch, voxels, scale, threads); });
}

template <class T>
void field_compose(const T* u, const T* v, bool v_packed, T* out, bool out_packed, const FieldSizes& s, int threads) {
  const int64_t voxels = s.output_voxels();
  advise_large_pages(out, s.batch * s.dims * voxels);
  specialise_field(s, [&](auto D, auto index) {
    with_layout<D>(v, v_packed, voxels, [&](const auto& from) {
      with_layout<D>(out, out_packed, voxels, [&](const auto& to) {
        const Chunks chunks{s.batch * Extent<D>(s.output).rows(), kRowsPerJob};
        parallel_for(chunks.count(), threads, [&](int64_t job) {
          compose_rows<D, decltype(index)>(u, from, to, s, chunks.begin(job), chunks.end(job));
        });
      });
    });
  });
}

#define REGKIT_INSTANTIATE(T)                                                                    \
  template void field_pack<T>(const T*, T*, int, int64_t, int64_t, T, int);                      \
  template void field_unpack_sums<T>(const T*, T*, int, int64_t, int64_t, T, int);               \
  template void field_compose<T>(const T*, const T*, bool, T*, bool, const FieldSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
