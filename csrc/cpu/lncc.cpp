// Local NCC on the CPU. Reads two volumes and writes at most one gradient volume per image: 8 to 16 bytes a voxel of memory traffic;
// scratch is a few planes per thread. The cost does not grow with the window. See lncc_sweep.h.
#include "lncc.h"

#include "cpu/lncc_sweep.h"
#include "cpu/pages.h"
#include "cpu/volume_shift.h"

namespace regkit {
namespace {

// Two images in memory.
template <class T>
class ImagePair {
 public:
  ImagePair(const LnccCall<T>& call, int64_t volume, T shift_a, T shift_b) : call_(call), shift_a_(shift_a), shift_b_(shift_b) {
    const int64_t voxels = call.size[0] * call.size[1] * call.size[2];
    offset_ = volume * voxels;
    weight_ = call.weight ? call.weight + volume / call.volumes_per_weight * voxels : nullptr;
  }
  void enter(int64_t, int64_t) {}
  const T* a(int64_t i, int64_t j) const { return call_.a + offset_ + voxel(i, j); }
  const T* b(int64_t i, int64_t j) const { return call_.b + offset_ + voxel(i, j); }
  const T* weight(int64_t i, int64_t j) const { return weight_ ? weight_ + voxel(i, j) : nullptr; }
  void value(int64_t i, int64_t j, const T* ncc) {
    if (call_.map) std::copy_n(ncc, call_.size[2], call_.map + offset_ + voxel(i, j));
  }
  void gradient(int64_t i, int64_t j, const T* const (&boxes)[5]) {
    if (call_.grad_a) gradient_row(call_.grad_a + offset_ + voxel(i, j), a(i, j), b(i, j), shift_a_, shift_b_, boxes[0], boxes[1], boxes[2]);
    const int q = call_.grad_a ? 3 : 1;
    if (call_.grad_b) gradient_row(call_.grad_b + offset_ + voxel(i, j), b(i, j), a(i, j), shift_b_, shift_a_, boxes[0], boxes[q], boxes[q + 1]);
  }

 private:
  int64_t voxel(int64_t i, int64_t j) const { return (i * call_.size[1] + j) * call_.size[2]; }
  void gradient_row(T* g, const T* x, const T* y, T own_shift, T other_shift, const T* cross, const T* square, const T* linear) {
    const T scale = call_.scale;
    for (int64_t k = 0, n = call_.size[2]; k < n; ++k) g[k] = scale * lncc_gradient(x[k] - own_shift, y[k] - other_shift, cross[k], square[k], linear[k]);
  }

  const LnccCall<T>& call_;
  const T shift_a_, shift_b_, *weight_;
  int64_t offset_;
};

}  // namespace

template <class T>
void lncc(const LnccCall<T>& call, int threads) {
  const int64_t voxels = call.size[0] * call.size[1] * call.size[2];
  if (call.volumes * voxels == 0) {
    if (call.total) *call.total = 0;
    return;
  }
  for (T* output : {call.map, call.grad_a, call.grad_b}) advise_large_pages(output, call.volumes * voxels);
  const std::vector<T> shift_a = volume_shifts(call.a, call.volumes, voxels, threads), shift_b = volume_shifts(call.b, call.volumes, voxels, threads);
  const LnccShape<T> shape{{call.size[0], call.size[1], call.size[2]}, {call.window[0], call.window[1], call.window[2]}, call.eps};
  const LnccTiling tiles(shape, 64);
  std::vector<double> totals(call.volumes * tiles.count());
  parallel_for(call.volumes * tiles.count(), threads, [&](int64_t job) {
    const int64_t volume = job / tiles.count();
    ImagePair<T> images(call, volume, shift_a[volume], shift_b[volume]);
    LnccSweep<T, ImagePair<T>> sweep(shape, tiles[job % tiles.count()], shift_a[volume], shift_b[volume], call.grad_a, call.grad_b, images);
    totals[job] = sweep.run();
  });
  if (call.total) {
    *call.total = 0;
    for (double t : totals) *call.total += t;
  }
}

template void lncc<float>(const LnccCall<float>&, int);
template void lncc<double>(const LnccCall<double>&, int);

}  // namespace regkit
