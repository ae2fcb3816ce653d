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
  alignas(64) T c[D][kLanes] = {}, value[kLanes * D + 1], shift[kLanes * D];
  for (int64_t r = begin; r < end; ++r) {
    const int64_t b = r / output.rows(), row = r % output.rows();
    int64_t at[D];
    output.row(row, at);
    for (int64_t k0 = 0; k0 < nk; k0 += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, nk - k0));
      const int64_t voxel = row * nk + k0;
      v.read_rows(b, voxel, lanes, c);
      interleave<D, T>(c[0], kLanes, shift, kLanes);
      add_positions(c, at, k0);
      locate(samples, c, field, runs, (s.batch - b) * field_voxels);
      sample(samples, u + b * field_voxels * D, field, runs, lanes, value);
      for (int n = 0; n < kLanes * D; ++n) value[n] += shift[n];
      out.write_packed(b, voxel, lanes, value);
    }
  }
}

template <int D, class T, class Call>
void with_layout(T* data, bool packed, int64_t voxels, Call&& call) {
  if (packed) call(PackedField<D, T>{data, voxels});
  else call(PlanarField<D, T>{data, voxels});
}

// to = scale * from, for fields of either layout.
template <int D, class From, class To, class T>
void copy_field(const From& from, const To& to, int64_t batch, T scale, int threads) {
  const Chunks chunks{from.voxels, kVoxelsPerJob};
  parallel_for(batch * chunks.count(), threads, [&](int64_t job) {
    const int64_t b = job / chunks.count(), part = job % chunks.count();
    for (int64_t x = chunks.begin(part); x < chunks.end(part); x += kLanes) {
      const int lanes = static_cast<int>(std::min<int64_t>(kLanes, chunks.end(part) - x));
      alignas(64) T block[kLanes * D];
      from.read_packed(b, x, lanes, block);
      for (int n = 0; n < kLanes * D; ++n) block[n] *= scale;
      to.write_packed(b, x, lanes, block);
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
  with_dims(dims, [&](auto D) { copy_field<D>(PlanarField<D, const T>{planar, voxels}, PackedField<D, T>{packed, voxels}, batch, scale, threads); });
}

template <class T>
void field_unpack(const T* packed, T* planar, int dims, int64_t batch, int64_t voxels, T scale, int threads) {
  advise_large_pages(planar, batch * dims * voxels);
  with_dims(dims, [&](auto D) { copy_field<D>(PackedField<D, const T>{packed, voxels}, PlanarField<D, T>{planar, voxels}, batch, scale, threads); });
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
  template void field_unpack<T>(const T*, T*, int, int64_t, int64_t, T, int);                    \
  template void field_compose<T>(const T*, const T*, bool, T*, bool, const FieldSizes&, int);
REGKIT_INSTANTIATE(float)
REGKIT_INSTANTIATE(double)
#undef REGKIT_INSTANTIATE

}  // namespace regkit
