// The Python face of the kernels: one def per launcher. Tensors come as addresses (data_ptr), so no torch header is needed and one build serves
// every torch version; shapes, dtypes and contiguity have been checked by regkit.ops. Every call releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "cpu/bending.h"
#include "cpu/correlate.h"
#include "cpu/diffusion.h"
#include "cpu/jacobian.h"
#include "cpu/jacobian_summary.h"
#include "cpu/lncc.h"
#include "cpu/mind.h"
#include "cpu/smooth.h"
#include "cpu/upsample.h"
#include "cpu/warp.h"

namespace py = pybind11;
using namespace regkit;

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

template <class T>
void define_warp(py::module_& m, const std::string& type) {
  m.def(("warp_" + type).c_str(), [](Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, bool compose, int threads) {
    warp_linear<T>(at<T>(image), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<T>(fill), compose, threads);
  }, Release());
  m.def(("warp_grad_displacement_" + type).c_str(), [](Address grad, Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, bool compose, int threads) {
    warp_grad_displacement<T>(at<T>(grad), at<T>(image), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<T>(fill), compose, threads);
  }, Release());
  m.def(("warp_grad_image_" + type).c_str(), [](Address grad, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, int threads) {
    warp_grad_image<T>(at<T>(grad), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, threads);
  }, Release());
}

template <class Element>
void define_warp_nearest(py::module_& m, const std::string& bits) {
  m.def(("warp_nearest_" + bits).c_str(), [](Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, Address fill, int threads) {
    warp_nearest<Element>(at<Element>(image), at<float>(u), at<Element>(out), warp_sizes(dims, batch, channels, in, of), padding, *at<Element>(fill), threads);
  }, Release());
}

template <class T>
void define_lncc(py::module_& m, const std::string& type) {
  m.def(("lncc_" + type).c_str(), [](Address a, Address b, Address weight, int64_t volumes_per_weight, Address map, Address grad_a, Address grad_b, Address total, double scale, int64_t volumes, Size3 size, Size3 window, double eps, int threads) {
    lncc<T>({at<T>(a), at<T>(b), at<T>(weight), volumes_per_weight, at<T>(map), at<T>(grad_a), at<T>(grad_b), at<double>(total), static_cast<T>(scale), volumes,
             {size[0], size[1], size[2]}, {window[0], window[1], window[2]}, static_cast<T>(eps)}, threads);
  }, Release());
}

CorrelateSizes correlate_sizes(int dims, const Size3& counts, const Size3& fixed, const Size3& moving, const Size3& search, const Size3& patch, int64_t stride, int64_t patch_stride, int metric) {
  return {dims, counts[0], counts[1], counts[2], {fixed[0], fixed[1], fixed[2]}, {moving[0], moving[1], moving[2]}, {search[0], search[1], search[2]},
          {patch[0], patch[1], patch[2]}, stride, patch_stride, metric};
}

template <class Stored>
void define_correlate(py::module_& m, const std::string& type) {
  m.def(("correlate_" + type).c_str(), [](Address fixed, Address moving, Address keypoints, Address centers, Address out, int dims, Size3 counts, Size3 of_fixed, Size3 of_moving, Size3 search, Size3 patch, int64_t stride, int64_t patch_stride, int metric, int threads) {
    correlate<Stored>(at<Stored>(fixed), at<Stored>(moving), at<int64_t>(keypoints), at<int64_t>(centers), at<Stored>(out),
                      correlate_sizes(dims, counts, of_fixed, of_moving, search, patch, stride, patch_stride, metric), threads);
  }, Release());
}

template <class Stored>
void define_correlate_backward(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("correlate_cosine_terms_" + type).c_str(), [](Address fixed, Address moving, Address keypoints, Address centers, Address grad, Address alpha, Address beta, Address gamma, int dims, Size3 counts, Size3 of_fixed, Size3 of_moving, Size3 search, Size3 patch, int64_t stride, int64_t patch_stride, int metric, int threads) {
    correlate_cosine_terms<Stored>(at<Stored>(fixed), at<Stored>(moving), at<int64_t>(keypoints), at<int64_t>(centers), at<T>(grad), at<T>(alpha), at<T>(beta), at<T>(gamma),
                                   correlate_sizes(dims, counts, of_fixed, of_moving, search, patch, stride, patch_stride, metric), threads);
  }, Release());
  m.def(("correlate_grad_fixed_" + type).c_str(), [](Address fixed, Address moving, Address keypoints, Address centers, Address alpha, Address gamma, Address out, int dims, Size3 counts, Size3 of_fixed, Size3 of_moving, Size3 search, Size3 patch, int64_t stride, int64_t patch_stride, int metric, int threads) {
    correlate_grad_fixed<Stored>(at<Stored>(fixed), at<Stored>(moving), at<int64_t>(keypoints), at<int64_t>(centers), at<T>(alpha), at<T>(gamma), at<T>(out),
                                 correlate_sizes(dims, counts, of_fixed, of_moving, search, patch, stride, patch_stride, metric), threads);
  }, Release());
  m.def(("correlate_grad_moving_" + type).c_str(), [](Address fixed, Address moving, Address keypoints, Address centers, Address alpha, Address beta, Address out, int dims, Size3 counts, Size3 of_fixed, Size3 of_moving, Size3 search, Size3 patch, int64_t stride, int64_t patch_stride, int metric, int threads) {
    correlate_grad_moving<Stored>(at<Stored>(fixed), at<Stored>(moving), at<int64_t>(keypoints), at<int64_t>(centers), at<T>(alpha), at<T>(beta), at<T>(out),
                                  correlate_sizes(dims, counts, of_fixed, of_moving, search, patch, stride, patch_stride, metric), threads);
  }, Release());
}

template <class Stored>
void define_mind(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("mind_ssc_" + type).c_str(), [](Address image, Address out, int dims, int64_t batch, Size3 size, int64_t radius, int64_t dilation, bool channels_last, int threads) {
    mind_ssc(at<T>(image), at<Stored>(out), {dims, batch, {size[0], size[1], size[2]}, radius, dilation, channels_last}, threads);
  }, Release());
  m.def(("mind_ssc_backward_" + type).c_str(), [](Address grad, Address image, Address out, int dims, int64_t batch, Size3 size, int64_t radius, int64_t dilation, bool channels_last, int threads) {
    mind_ssc_backward(at<Stored>(grad), at<T>(image), at<T>(out), {dims, batch, {size[0], size[1], size[2]}, radius, dilation, channels_last}, threads);
  }, Release());
}

template <class T>
void define_diffusion(py::module_& m, const std::string& type) {
  m.def(("diffusion_energy_" + type).c_str(), [](Address u, Address gradient, Address energy, double scale, int64_t volumes, Size3 size, std::array<double, 3> weight, int threads) {
    diffusion_energy<T>({at<T>(u), at<T>(gradient), at<double>(energy), static_cast<T>(scale), volumes, {size[0], size[1], size[2]},
                         {static_cast<T>(weight[0]), static_cast<T>(weight[1]), static_cast<T>(weight[2])}}, threads);
  }, Release());
}

template <class T>
void define_bending(py::module_& m, const std::string& type) {
  m.def(("bending_energy_" + type).c_str(), [](Address u, Address gradient, Address energy, double scale, int64_t volumes, Size3 size, std::array<double, 3> pure, std::array<double, 3> mixed, int threads) {
    const auto to = [](double weight) { return static_cast<T>(weight); };
    bending_energy<T>({at<T>(u), at<T>(gradient), at<double>(energy), to(scale), volumes, {size[0], size[1], size[2]},
                       {to(pure[0]), to(pure[1]), to(pure[2])}, {to(mixed[0]), to(mixed[1]), to(mixed[2])}}, threads);
  }, Release());
}

template <class T>
void define_jacobian(py::module_& m, const std::string& type) {
  m.def(("jacobian_determinant_" + type).c_str(), [](Address u, Address out, int dims, int64_t batch, Size3 size, int threads) {
    jacobian_determinant<T>(at<T>(u), at<T>(out), {dims, batch, {size[0], size[1], size[2]}}, threads);
  }, Release());
  m.def(("jacobian_determinant_grad_" + type).c_str(), [](Address grad, Address u, Address out, int dims, int64_t batch, Size3 size, int threads) {
    jacobian_determinant_grad<T>(at<T>(grad), at<T>(u), at<T>(out), {dims, batch, {size[0], size[1], size[2]}}, threads);
  }, Release());
  m.def(("jacobian_summary_" + type).c_str(), [](Address u, Address mask, Address figures, int dims, int64_t batch, Size3 size, int threads) {
    jacobian_summary<T>({at<T>(u), at<uint8_t>(mask), at<double>(figures), {dims, batch, {size[0], size[1], size[2]}}}, threads);
  }, Release());
}

template <class T>
void define_smooth(py::module_& m, const std::string& type) {
  m.def(("smooth_" + type).c_str(), [](Address in, Address out, int64_t volumes, Size3 size, double side, int threads) {
    smooth<T>({at<T>(in), at<T>(out), volumes, {size[0], size[1], size[2]}, static_cast<T>(side)}, threads);
  }, Release());
}

template <class T>
void define_upsample(py::module_& m, const std::string& type) {
  const auto define = [&](const char* name, void (*launch)(const UpsampleCall<T>&, int)) {
    m.def((name + type).c_str(), [launch](Address in, Address out, Address scale, int64_t batch, int64_t channels, Size3 coarse, Size3 fine, std::array<double, 3> factor, std::array<double, 3> offset, int threads) {
      launch({at<T>(in), at<T>(out), at<T>(scale), batch, channels, {coarse[0], coarse[1], coarse[2]}, {fine[0], fine[1], fine[2]},
              {factor[0], factor[1], factor[2]}, {offset[0], offset[1], offset[2]}}, threads);
    }, Release());
  };
  define("upsample_", upsample<T>);
  define("upsample_adjoint_", upsample_adjoint<T>);
}

}  // namespace

PYBIND11_MODULE(REGKIT_MODULE, m) {
  m.doc() = "regkit's CPU kernels";
  m.attr("instruction_set") = REGKIT_INSTRUCTION_SET;
#if defined(__x86_64__)
  m.def("supported_instruction_sets", [] {
    __builtin_cpu_init();
    py::list names;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) names.append("avx512");
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) names.append("avx2");
    names.append("baseline");
    return names;
  });
#else
  m.def("supported_instruction_sets", [] { return std::array<std::string, 1>{"baseline"}; });
#endif
  define_warp<float>(m, "float32");
  define_warp<double>(m, "float64");
  define_warp_nearest<uint8_t>(m, "8");
  define_warp_nearest<uint16_t>(m, "16");
  define_warp_nearest<uint32_t>(m, "32");
  define_warp_nearest<uint64_t>(m, "64");
  define_lncc<float>(m, "float32");
  define_lncc<double>(m, "float64");
  define_correlate<float>(m, "float32");
  define_correlate_backward<float>(m, "float32");
  define_correlate<double>(m, "float64");
  define_correlate_backward<double>(m, "float64");
  define_correlate<float16>(m, "float16");
  define_correlate_backward<float16>(m, "float16");
  define_correlate<bfloat16>(m, "bfloat16");
  define_correlate_backward<bfloat16>(m, "bfloat16");
  define_mind<float>(m, "float32");
  define_mind<double>(m, "float64");
  define_mind<float16>(m, "float16");
  define_mind<bfloat16>(m, "bfloat16");
  define_diffusion<float>(m, "float32");
  define_diffusion<double>(m, "float64");
  define_bending<float>(m, "float32");
  define_bending<double>(m, "float64");
  define_jacobian<float>(m, "float32");
  define_jacobian<double>(m, "float64");
  define_smooth<float>(m, "float32");
  define_smooth<double>(m, "float64");
  define_upsample<float>(m, "float32");
  define_upsample<double>(m, "float64");
}
