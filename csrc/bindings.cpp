// The Python face of the kernels: one def per launcher. Tensors come as addresses (data_ptr), so no torch header is needed and one build serves
// every torch version; shapes, dtypes and contiguity have been checked by regkit.ops. Every call releases the GIL.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/bending.h"
#include "cpu/correlate.h"
#include "cpu/correlate_dense.h"
#include "cpu/diffusion.h"
#include "cpu/field.h"
#include "cpu/jacobian.h"
#include "cpu/jacobian_summary.h"
#include "cpu/lncc.h"
#include "cpu/majority.h"
#include "cpu/mind.h"
#include "cpu/similarity_maps.h"
#include "cpu/smooth.h"
#include "cpu/soft_dice.h"
#include "cpu/upsample.h"
#include "cpu/warp.h"
#include "cpu/warp_affine.h"
#include "cpu/warp_lncc.h"
#include "cpu/warp_ssd.h"

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

FieldSizes field_sizes(int dims, int64_t batch, const Size3& field, const Size3& output) {
  return {dims, batch, {field[0], field[1], field[2]}, {output[0], output[1], output[2]}};
}

template <class Stored>
void define_warp(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("warp_" + type).c_str(), [](Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, int threads) {
    warp_linear(at<Stored>(image), at<T>(u), at<Stored>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<T>(fill), threads);
  }, Release());
  m.def(("warp_grad_displacement_" + type).c_str(), [](Address grad, Address image, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, int threads) {
    warp_grad_displacement(at<Stored>(grad), at<Stored>(image), at<T>(u), at<T>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<T>(fill), threads);
  }, Release());
}

template <class Stored>
void define_warp_affine(py::module_& m, const std::string& type) {
  m.def(("warp_affine_" + type).c_str(), [](Address image, Address matrix, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, int threads) {
    warp_affine(at<Stored>(image), at<double>(matrix), at<Stored>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<arithmetic<Stored>>(fill), threads);
  }, Release());
}

template <class Element>
void define_warp_affine_nearest(py::module_& m, const std::string& bits) {
  m.def(("warp_affine_nearest_" + bits).c_str(), [](Address labels, Address matrix, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, int threads) {
    warp_affine_nearest(at<Element>(labels), at<double>(matrix), at<Element>(out), warp_sizes(dims, batch, channels, in, of), padding, threads);
  }, Release());
}

template <class T>
void define_warp_grad_image(py::module_& m, const std::string& type) {
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

template <class Label>
void define_warp_majority(py::module_& m, const std::string& bits) {
  m.def(("warp_majority_" + bits).c_str(), [](Address labels, Address u, Address out, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, uint64_t fill, uint64_t order, int threads) {
    warp_majority<Label>(at<Label>(labels), at<float>(u), at<Label>(out), warp_sizes(dims, batch, channels, in, of), padding, static_cast<Label>(fill), static_cast<Label>(order), threads);
  }, Release());
}

template <class T>
SoftDiceCall<T> soft_dice_call(Address fixed, Address moving, Address u, std::array<int, 2> types, int dims, int64_t batch, const Size3& size, const Size3& of_moving, std::vector<int64_t>&& labels, int padding) {
  return {at<void>(fixed), at<void>(moving), static_cast<LabelType>(types[0]), static_cast<LabelType>(types[1]), at<T>(u), dims, batch,
          {size[0], size[1], size[2]}, {of_moving[0], of_moving[1], of_moving[2]}, std::move(labels), padding};
}

template <class T>
void define_soft_dice(py::module_& m, const std::string& type) {
  m.def(("soft_dice_" + type).c_str(), [](Address fixed, Address moving, Address u, std::array<int, 2> types, int dims, int64_t batch, Size3 size, Size3 of_moving, std::vector<int64_t> labels, int padding, Address sums, int threads) {
    soft_dice<T>(soft_dice_call<T>(fixed, moving, u, types, dims, batch, size, of_moving, std::move(labels), padding), at<double>(sums), threads);
  }, Release());
  m.def(("soft_dice_grad_" + type).c_str(), [](Address fixed, Address moving, Address u, std::array<int, 2> types, int dims, int64_t batch, Size3 size, Size3 of_moving, std::vector<int64_t> labels, int padding, Address tables, Address out, int threads) {
    soft_dice_grad<T>(soft_dice_call<T>(fixed, moving, u, types, dims, batch, size, of_moving, std::move(labels), padding), at<T>(tables), at<T>(out), threads);
  }, Release());
}

template <class Stored>
void define_similarity_maps(py::module_& m, const std::string& type) {
  m.def(("similarity_maps_" + type).c_str(), [](Address fixed, Address moving, Address points, Address out, int dims, std::array<int64_t, 2> counts, Size3 of_fixed, Size3 of_moving, int64_t patch_size, std::vector<int64_t> kernel_sizes, int threads) {
    similarity_maps<Stored>({at<Stored>(fixed), at<Stored>(moving), at<int64_t>(points), at<Stored>(out), dims, counts[0], counts[1], {of_fixed[0], of_fixed[1], of_fixed[2]},
                             {of_moving[0], of_moving[1], of_moving[2]}, patch_size, std::move(kernel_sizes)}, threads);
  }, Release());
}

template <class T>
void define_lncc(py::module_& m, const std::string& type) {
  m.def(("lncc_" + type).c_str(), [](Address a, Address b, Address weight, int64_t volumes_per_weight, Address map, Address grad_a, Address grad_b, Address total, double scale, int64_t volumes, Size3 size, Size3 window, double eps, int threads) {
    lncc<T>({at<T>(a), at<T>(b), at<T>(weight), volumes_per_weight, at<T>(map), at<T>(grad_a), at<T>(grad_b), at<double>(total), static_cast<T>(scale), volumes,
             {size[0], size[1], size[2]}, {window[0], window[1], window[2]}, static_cast<T>(eps)}, threads);
  }, Release());
}

template <class T>
void define_warp_lncc(py::module_& m, const std::string& type) {
  m.def(("warp_lncc_" + type).c_str(), [](Address fixed, Address moving, Address u, Address weight, Address gradient, Address total, double scale, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, Size3 window, int padding, double fill, double eps, int threads) {
    warp_lncc<T>({at<T>(fixed), at<T>(moving), at<T>(u), at<T>(weight), at<T>(gradient), at<double>(total), static_cast<T>(scale), warp_sizes(dims, batch, channels, in, of),
                  {window[0], window[1], window[2]}, padding, static_cast<T>(fill), static_cast<T>(eps)}, threads);
  }, Release());
}

template <class Stored>
void define_warp_ssd(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("warp_ssd_" + type).c_str(), [](Address fixed, Address moving, Address u, Address weight, Address gradient, Address total, double scale, int dims, int64_t batch, int64_t channels, Size3 in, Size3 of, int padding, double fill, int threads) {
    warp_ssd<Stored>({at<Stored>(fixed), at<Stored>(moving), at<T>(u), at<T>(weight), at<T>(gradient), at<double>(total), static_cast<T>(scale), warp_sizes(dims, batch, channels, in, of), padding, static_cast<T>(fill)}, threads);
  }, Release());
}

// Features as (address, channels last); addresses of keypoints and centers; dims; batch, channels, keypoints; sizes; radii; strides; metric;
// threads: what every launcher on a search cube takes first.
using FeatureAddress = std::pair<Address, bool>;
using SearchArguments = std::tuple<FeatureAddress, FeatureAddress, Address, Address, int, Size3, Size3, Size3, Size3, Size3, int64_t, int64_t, int, int>;

template <class Stored>
SearchCall<Stored> search_call(const SearchArguments& arguments) {
  const auto& [fixed, moving, keypoints, centers, dims, counts, of_fixed, of_moving, search, patch, stride, patch_stride, metric, threads] = arguments;
  return {{at<Stored>(fixed.first), fixed.second}, {at<Stored>(moving.first), moving.second}, at<int64_t>(keypoints), at<int64_t>(centers),
          {dims, counts[0], counts[1], counts[2], {of_fixed[0], of_fixed[1], of_fixed[2]}, {of_moving[0], of_moving[1], of_moving[2]},
           {search[0], search[1], search[2]}, {patch[0], patch[1], patch[2]}, stride, patch_stride, metric}, threads};
}

template <class Stored>
void define_search(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("correlate_" + type).c_str(), [](const SearchArguments& search, Address out) { correlate(search_call<Stored>(search), at<Stored>(out)); }, Release());
  m.def(("correlate_backward_" + type).c_str(), [](const SearchArguments& search, Address grad, Address grad_fixed, Address grad_moving) {
    correlate_backward(search_call<Stored>(search), at<T>(grad), at<T>(grad_fixed), at<T>(grad_moving));
  }, Release());
  m.def(("expected_displacement_" + type).c_str(), [](const SearchArguments& search, double sharpness, Address out, Address logsumexp) {
    expected_displacement(search_call<Stored>(search), static_cast<T>(sharpness), at<T>(out), at<T>(logsumexp));
  }, Release());
  m.def(("expected_displacement_backward_" + type).c_str(), [](const SearchArguments& search, double sharpness, Address grad, Address displacement, Address logsumexp, Address grad_fixed, Address grad_moving) {
    expected_displacement_backward(search_call<Stored>(search), static_cast<T>(sharpness), at<T>(grad), at<T>(displacement), at<T>(logsumexp), at<T>(grad_fixed), at<T>(grad_moving));
  }, Release());
  m.def(("best_displacement_" + type).c_str(), [](const SearchArguments& search, Address out) { best_displacement(search_call<Stored>(search), at<T>(out)); }, Release());
  m.def(("embed_displacements_" + type).c_str(), [](const SearchArguments& search, Address basis, int64_t columns, Address out) {
    embed_displacements(search_call<Stored>(search), at<T>(basis), columns, at<T>(out));
  }, Release());
  m.def(("embed_displacements_backward_" + type).c_str(), [](const SearchArguments& search, Address grad, Address basis, int64_t columns, Address grad_fixed, Address grad_moving, Address grad_basis) {
    embed_displacements_backward(search_call<Stored>(search), at<T>(grad), at<T>(basis), columns, at<T>(grad_fixed), at<T>(grad_moving), at<T>(grad_basis));
  }, Release());
}

template <class Stored>
void define_dense(py::module_& m, const std::string& type) {
  m.def(("correlate_dense_" + type).c_str(), [](Address a, Address b, Address out, int64_t batch, int64_t channels, Size3 size, Size3 radius, int64_t stride, bool ssd, int threads) {
    correlate_dense(at<Stored>(a), at<Stored>(b), at<Stored>(out), {batch, channels, {size[0], size[1], size[2]}, {radius[0], radius[1], radius[2]}, stride, ssd}, threads);
  }, Release());
  m.def(("correlate_dense_backward_" + type).c_str(), [](Address grad, Address own, Address other, bool second, Address gradient, int64_t batch, int64_t channels, Size3 size, Size3 radius, int64_t stride, bool ssd, int threads) {
    correlate_dense_backward(at<Stored>(grad), at<Stored>(own), at<Stored>(other), second, at<Stored>(gradient),
                             {batch, channels, {size[0], size[1], size[2]}, {radius[0], radius[1], radius[2]}, stride, ssd}, threads);
  }, Release());
}

template <class Stored>
void define_mind(py::module_& m, const std::string& type) {
  using T = arithmetic<Stored>;
  m.def(("mind_ssc_" + type).c_str(), [](Address image, Address out, int dims, int64_t batch, Size3 size, int64_t radius, int64_t dilation, int64_t pool, bool channels_last, int threads) {
    mind_ssc(at<T>(image), at<Stored>(out), {dims, batch, {size[0], size[1], size[2]}, radius, dilation, pool, channels_last}, threads);
  }, Release());
  m.def(("mind_ssc_backward_" + type).c_str(), [](Address grad, Address image, Address out, int dims, int64_t batch, Size3 size, int64_t radius, int64_t dilation, int64_t pool, bool channels_last, int threads) {
    mind_ssc_backward(at<Stored>(grad), at<T>(image), at<T>(out), {dims, batch, {size[0], size[1], size[2]}, radius, dilation, pool, channels_last}, threads);
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
void define_field(py::module_& m, const std::string& type) {
  m.def(("field_pack_" + type).c_str(), [](Address planar, Address packed, int dims, int64_t batch, int64_t voxels, double scale, int threads) {
    field_pack<T>(at<T>(planar), at<T>(packed), dims, batch, voxels, static_cast<T>(scale), threads);
  }, Release());
  m.def(("field_unpack_" + type).c_str(), [](Address packed, Address planar, int dims, int64_t batch, int64_t voxels, double scale, int threads) {
    field_unpack<T>(at<T>(packed), at<T>(planar), dims, batch, voxels, static_cast<T>(scale), threads);
  }, Release());
  m.def(("field_compose_" + type).c_str(), [](Address u, Address v, bool v_packed, Address out, bool out_packed, int dims, int64_t batch, Size3 in, Size3 of, int threads) {
    field_compose<T>(at<T>(u), at<T>(v), v_packed, at<T>(out), out_packed, field_sizes(dims, batch, in, of), threads);
  }, Release());
  m.def(("field_compose_backward_" + type).c_str(), [](Address grad, bool grad_packed, Address u, Address v, bool square, Address grad_u, Address grad_v, int dims, int64_t batch, Size3 in, Size3 of, int threads) {
    field_compose_backward<T>(at<T>(grad), grad_packed, at<T>(u), at<T>(v), square, at<T>(grad_u), at<T>(grad_v), field_sizes(dims, batch, in, of), threads);
  }, Release());
  m.def(("field_invert_" + type).c_str(), [](Address u, Address v, int dims, int64_t batch, Size3 size, int iterations, double tolerance, int threads) {
    field_invert<T>(at<T>(u), at<T>(v), field_sizes(dims, batch, size, size), iterations, static_cast<T>(tolerance), threads);
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
  define_warp<float16>(m, "float16");
  define_warp<bfloat16>(m, "bfloat16");
  define_warp_grad_image<float>(m, "float32");
  define_warp_grad_image<double>(m, "float64");
  define_warp_nearest<uint8_t>(m, "8");
  define_warp_nearest<uint16_t>(m, "16");
  define_warp_nearest<uint32_t>(m, "32");
  define_warp_nearest<uint64_t>(m, "64");
  define_warp_affine<float>(m, "float32");
  define_warp_affine<double>(m, "float64");
  define_warp_affine<float16>(m, "float16");
  define_warp_affine<bfloat16>(m, "bfloat16");
  define_warp_affine_nearest<uint8_t>(m, "8");
  define_warp_affine_nearest<uint16_t>(m, "16");
  define_warp_affine_nearest<uint32_t>(m, "32");
  define_warp_affine_nearest<uint64_t>(m, "64");
  define_warp_majority<uint8_t>(m, "8");
  define_warp_majority<uint16_t>(m, "16");
  define_warp_majority<uint32_t>(m, "32");
  define_warp_majority<uint64_t>(m, "64");
  define_soft_dice<float>(m, "float32");
  define_soft_dice<double>(m, "float64");
  define_similarity_maps<float>(m, "float32");
  define_similarity_maps<double>(m, "float64");
  define_similarity_maps<float16>(m, "float16");
  define_similarity_maps<bfloat16>(m, "bfloat16");
  define_lncc<float>(m, "float32");
  define_lncc<double>(m, "float64");
  define_warp_lncc<float>(m, "float32");
  define_warp_lncc<double>(m, "float64");
  define_warp_ssd<float>(m, "float32");
  define_warp_ssd<double>(m, "float64");
  define_warp_ssd<float16>(m, "float16");
  define_warp_ssd<bfloat16>(m, "bfloat16");
  define_search<float>(m, "float32");
  define_search<double>(m, "float64");
  define_search<float16>(m, "float16");
  define_search<bfloat16>(m, "bfloat16");
  define_dense<float>(m, "float32");
  define_dense<double>(m, "float64");
  define_dense<float16>(m, "float16");
  define_dense<bfloat16>(m, "bfloat16");
  define_mind<float>(m, "float32");
  define_mind<double>(m, "float64");
  define_mind<float16>(m, "float16");
  define_mind<bfloat16>(m, "bfloat16");
  define_diffusion<float>(m, "float32");
  define_diffusion<double>(m, "float64");
  define_field<float>(m, "float32");
  define_field<double>(m, "float64");
  define_bending<float>(m, "float32");
  define_bending<double>(m, "float64");
  define_jacobian<float>(m, "float32");
  define_jacobian<double>(m, "float64");
  define_smooth<float>(m, "float32");
  define_smooth<double>(m, "float64");
  define_upsample<float>(m, "float32");
  define_upsample<double>(m, "float64");
}
