// The Python face of the CUDA kernels: one def per launcher, as in csrc/bindings.cpp. Addresses are of device memory; the last argument is the stream.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "cuda/correlate_dense.h"
#include "cuda/integrate.h"
#include "cuda/lncc.h"
#include "cuda/search.h"
#include "cuda/warp.h"
#include "cuda/warp_ssd.h"

#ifndef REGKIT_MODULE
#define REGKIT_MODULE _cuda
#endif

namespace py = pybind11;
using namespace regkit::cuda;

namespace {

using Address = uintptr_t;
using Release = py::call_guard<py::gil_scoped_release>;
using Size3 = std::array<int64_t, 3>;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

WarpSizes warp_sizes(int dims, int64_t batch, int64_t channels, const Size3& image, const Size3& output) {
  return {dims, batch, channels, {image[0], image[1], image[2]}, {output[0], output[1], output[2]}};
}

template <class Stored>
void define_warp(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("warp_" + type).c_str(), [](Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, Stream stream) {
    warp_linear(at<Stored>(image), at<T>(u), at<Stored>(out), warp_sizes(dims, batch, channels, in, of), padding, fill, stream);
  }, Release());
  m.def(("warp_grad_displacement_" + type).c_str(), [](Address grad, Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, Stream stream) {
    warp_grad_displacement(at<Stored>(grad), at<Stored>(image), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, fill, stream);
  }, Release());
  m.def(("warp_grad_image_" + type).c_str(), [](Address grad, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, Address bound, Stream stream) {
    warp_grad_image(at<Stored>(grad), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, at<float>(bound), stream);
  }, Release());
  m.def(("warp_grad_image_fixed_" + type).c_str(), [](Address grad, Address u, Address unit, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, Stream stream) {
    warp_grad_image_fixed(at<Stored>(grad), at<T>(u), at<double>(unit), at<int64_t>(out), warp_sizes(dims, batch, channels, in, of), padding, stream);
  }, Release());
  if constexpr (std::is_same_v<T, float>) {
    m.def(("warp_grad_image_last_" + type).c_str(), [](Address grad, bool grad_last, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, Stream stream) {
      warp_grad_image_last(at<Stored>(grad), grad_last, at<float>(u), at<float>(out), warp_sizes(dims, batch, channels, in, of), padding, stream);
    }, Release());
  }
}

void define_warp_ssd(py::module_& m) {
  m.def("warp_ssd_blocks", [](int dims, int64_t batch, int64_t channels, Size3 in, Size3 of) { return warp_ssd_blocks(warp_sizes(dims, batch, channels, in, of)); });
  m.def("warp_ssd", [](Address fixed, Address moving, int stored, Address u, Address weight, Address scale, Address gradient, Address partials, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, Stream stream) {
    warp_ssd({at<void>(fixed), at<void>(moving), static_cast<StoredAs>(stored), at<float>(u), at<float>(weight), at<float>(scale), at<float>(gradient), at<float>(partials), warp_sizes(dims, batch, channels, in, of), padding, static_cast<float>(fill)}, stream);
  }, Release());
}

template <class Element>
void define_warp_nearest(py::module_& m, const std::string& bits) {
  m.def(("warp_nearest_" + bits).c_str(), [](Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, Address fill, Stream stream) {
    warp_nearest(at<Element>(image), at<float>(u), at<Element>(out), warp_sizes(dims, batch, channels, in, of), padding, at<Element>(fill), stream);
  }, Release());
}

// The images and what describes them: what both sweeps take first.
LnccCall lncc_call(Address a, Address b, int stored, Address shifts_a, Address shifts_b, Address weight, std::array<int64_t, 3> volumes, const Size3& size, std::array<int, 2> windows, double eps) {
  return {at<void>(a), at<void>(b), static_cast<StoredAs>(stored), at<float>(shifts_a), at<float>(shifts_b), at<float>(weight),
          volumes[1], volumes[2], volumes[0], {size[0], size[1], size[2]}, windows[0], windows[1], static_cast<float>(eps)};
}

void define_lncc(py::module_& m) {
  m.def("lncc_blocks", [](std::array<int64_t, 3> volumes, Size3 size, std::array<int, 2> windows) {
    return lncc_blocks(lncc_call(0, 0, 0, 0, 0, 0, volumes, size, windows, 0));
  });
  m.def("lncc_windows", [](Address a, Address b, int stored, Address shifts_a, Address shifts_b, Address weight, std::array<int64_t, 3> volumes, Size3 size, std::array<int, 2> windows, double eps,
                           Address partials, Address map, Address adjoints, bool both, Stream stream) {
    lncc_windows(lncc_call(a, b, stored, shifts_a, shifts_b, weight, volumes, size, windows, eps), at<float>(partials), at<void>(map), at<float>(adjoints), both, stream);
  }, Release());
  m.def("lncc_gradient", [](Address a, Address b, int stored, Address shifts_a, Address shifts_b, Address weight, std::array<int64_t, 3> volumes, Size3 size, std::array<int, 2> windows, double eps,
                            Address adjoints, bool both, Address scale, Address grad_a, Address grad_b, int as, Stream stream) {
    lncc_gradient(lncc_call(a, b, stored, shifts_a, shifts_b, weight, volumes, size, windows, eps), at<float>(adjoints), both, at<float>(scale), at<void>(grad_a), at<void>(grad_b), static_cast<StoredAs>(as), stream);
  }, Release());
  m.def("lncc_gradient_of_warp", [](Address a, Address b, int stored, Address shifts_a, Address shifts_b, Address weight, std::array<int64_t, 3> volumes, Size3 size, std::array<int, 2> windows, double eps,
                                    Address adjoints, Address scale, Address moving, Address u, Address by_u, int dims, Size3 of, int padding, double fill, Stream stream) {
    const LnccWarp warp{at<float>(moving), at<float>(u), at<float>(by_u), {of[0], of[1], of[2]}, dims, padding, static_cast<float>(fill)};
    lncc_gradient_of_warp(lncc_call(a, b, stored, shifts_a, shifts_b, weight, volumes, size, windows, eps), at<float>(adjoints), at<float>(scale), warp, stream);
  }, Release());
}

DenseSizes dense_sizes(int dims, int radius, int64_t batch, int64_t channels, const Size3& size, bool ssd, int stored) {
  return {dims, radius, batch, channels, {size[0], size[1], size[2]}, ssd, static_cast<StoredAs>(stored)};
}

void define_correlate_dense(py::module_& m) {
  m.attr("correlate_dense_radius") = kMostDense;
  m.def("correlate_dense", [](Address a, Address b, Address out, int dims, int radius, int64_t batch, int64_t channels, Size3 size, bool ssd, int stored, Stream stream) {
    correlate_dense(at<void>(a), at<void>(b), at<void>(out), dense_sizes(dims, radius, batch, channels, size, ssd, stored), stream);
  }, Release());
  m.def("correlate_dense_backward", [](Address grad, Address own, Address other, bool second, Address gradient, int dims, int radius, int64_t batch, int64_t channels, Size3 size, bool ssd, int stored, Stream stream) {
    correlate_dense_backward(at<void>(grad), at<void>(own), at<void>(other), second, at<void>(gradient), dense_sizes(dims, radius, batch, channels, size, ssd, stored), stream);
  }, Release());
}

FieldSizes field_sizes(int dims, int64_t batch, const Size3& size) { return {dims, batch, {size[0], size[1], size[2]}}; }

void define_integrate(py::module_& m) {
  m.attr("integrate_most_fused") = kMostFused;
  m.def("integrate_first_steps", [](Address v, double scale, int steps, Address out, Address failed, int dims, int64_t batch, Size3 size, Stream stream) {
    integrate_first_steps(at<float>(v), static_cast<float>(scale), steps, at<float>(out), at<int>(failed), field_sizes(dims, batch, size), stream);
  }, Release());
  m.def("integrate_step", [](Address u, double scale, Address out, Address if_failed, int dims, int64_t batch, Size3 size, Stream stream) {
    integrate_step(at<float>(u), static_cast<float>(scale), at<float>(out), at<int>(if_failed), field_sizes(dims, batch, size), stream);
  }, Release());
  m.def("integrate_clear", [](Address largest, Address scattered, int dims, int64_t batch, Size3 size, Stream stream) {
    integrate_clear(at<float>(largest), at<float>(scattered), field_sizes(dims, batch, size), stream);
  }, Release());
  m.def("integrate_step_backward", [](Address grad, Address u, Address largest, double scale, Address scattered, Address out, int dims, int64_t batch, Size3 size, Stream stream) {
    integrate_step_backward(at<float>(grad), at<float>(u), at<float>(largest), static_cast<float>(scale), at<float>(scattered), at<float>(out), field_sizes(dims, batch, size), stream);
  }, Release());
}

using SearchOptions = std::array<int, 5>;  // radius, stride, patch radius, patch stride, metric

SearchCall search_call(Address fixed, Address moving, int stored, Address keypoints, Address centers, int dims, std::array<int64_t, 3> counts, const Size3& fixed_size, const Size3& moving_size, const SearchOptions& o) {
  return {at<void>(fixed), at<void>(moving), static_cast<StoredAs>(stored), at<int64_t>(keypoints), at<int64_t>(centers), dims, counts[0], counts[1], counts[2],
          {fixed_size[0], fixed_size[1], fixed_size[2]}, {moving_size[0], moving_size[1], moving_size[2]}, o[0], o[1], o[2], o[3], static_cast<regkit::Metric>(o[4])};
}

void define_search(py::module_& m) {
  m.attr("search_most_patch") = kMostPatch;
  m.attr("search_most_embedded_patch") = kMostEmbeddedPatch;
  m.def("search_map", [](Address fixed, Address moving, int stored, Address keypoints, Address centers, int dims, std::array<int64_t, 3> counts, Size3 fixed_size, Size3 moving_size, SearchOptions options, Address out, int as, Stream stream) {
    search_map(search_call(fixed, moving, stored, keypoints, centers, dims, counts, fixed_size, moving_size, options), at<void>(out), static_cast<StoredAs>(as), stream);
  }, Release());
  m.def("search_expected", [](Address fixed, Address moving, int stored, Address keypoints, Address centers, int dims, std::array<int64_t, 3> counts, Size3 fixed_size, Size3 moving_size, SearchOptions options, double sharpness, Address displacement, Address logsumexp, Stream stream) {
    search_expected(search_call(fixed, moving, stored, keypoints, centers, dims, counts, fixed_size, moving_size, options), static_cast<float>(sharpness), at<float>(displacement), at<float>(logsumexp), stream);
  }, Release());
  m.def("search_best", [](Address fixed, Address moving, int stored, Address keypoints, Address centers, int dims, std::array<int64_t, 3> counts, Size3 fixed_size, Size3 moving_size, SearchOptions options, Address displacement, Stream stream) {
    search_best(search_call(fixed, moving, stored, keypoints, centers, dims, counts, fixed_size, moving_size, options), at<float>(displacement), stream);
  }, Release());
  m.def("search_embed", [](Address fixed, Address moving, int stored, Address keypoints, Address centers, int dims, std::array<int64_t, 3> counts, Size3 fixed_size, Size3 moving_size, SearchOptions options, Address basis, int64_t columns, int64_t shares, Address out, Stream stream) {
    search_embed(search_call(fixed, moving, stored, keypoints, centers, dims, counts, fixed_size, moving_size, options), at<float>(basis), columns, shares, at<float>(out), stream);
  }, Release());
}

}  // namespace

PYBIND11_MODULE(REGKIT_MODULE, m) {
  define_warp<float>(m, "float32");
  define_warp<double>(m, "float64");
  define_warp<float16>(m, "float16");
  define_warp<bfloat16>(m, "bfloat16");
  define_warp_nearest<uint8_t>(m, "8");
  define_warp_nearest<uint16_t>(m, "16");
  define_warp_nearest<uint32_t>(m, "32");
  define_warp_nearest<uint64_t>(m, "64");
  define_warp_ssd(m);
  define_lncc(m);
  define_integrate(m);
  define_correlate_dense(m);
  define_search(m);
}
