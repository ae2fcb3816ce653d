"""correlate_dense: how alike every voxel's features are to those of its neighbourhood in another feature map."""

import torch

from regkit import reference
from regkit.ops import check, cuda, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.search import METRICS


def correlate_dense(
    a: torch.Tensor,  # (B, C, *spatial)
    b: torch.Tensor,  # (B, C, *spatial)
    *,
    radius: int,
    stride: int = 1,
    metric: str = "dot",
) -> torch.Tensor:  # (B, (2 radius + 1)^D, *spatial)
    """Local correlation of two feature maps: the cost volume of pyramid networks.

    Channel d of the result belongs to the displacement d, which runs over stride * {-radius .. radius}^D, first axis slowest:

        dot   out(d, x) = mean over channels of a(x) b(x + d)            (larger is more alike)
        ssd   out(d, x) = mean over channels of (a(x) - b(x + d))^2      (smaller is more alike)

    b is zero outside its image. For the cosine pass `C * F.normalize(a, dim=1)` and `F.normalize(b, dim=1)`. The similarity of patches
    around sparse points is correlate_keypoints' (which sums over channels, and repeats the border).
    The sum over channels is float32 (float64 if an input is float64); the result has a's dtype. Differentiable once by both maps. No
    memory is needed but the result.

    Source: the correlation layer of FlowNet (Fischer et al. 2015) with patches of one voxel, divided by the channels as PWC-Net and
    NVIDIA's layer do; spatial_correlation_sample gives C times this, and its patch_size is 2 radius + 1, its dilation_patch the stride.
    Raises ValueError for shapes and options, TypeError for dtypes.
    """
    check.image(a, "a")
    check.floating(a, "a")
    check.floating(b, "b")
    check.same("shapes", a=tuple(a.shape), b=tuple(b.shape))
    check.same("device", a=a.device, b=b.device)
    check.at_least(radius, "radius", 0)
    check.at_least(stride, "stride", 1)
    return torch.ops.regkit.correlate_dense(a, b, radius, stride, check.choice(metric, "metric", METRICS[:2]))


torch.library.define("regkit::correlate_dense", "(Tensor a, Tensor b, int radius, int stride, int metric) -> Tensor")
torch.library.define(
    "regkit::correlate_dense_backward",
    "(Tensor grad, Tensor a, Tensor b, int radius, int stride, int metric, bool need_a, bool need_b) -> (Tensor, Tensor)",
)


@torch.library.register_fake("regkit::correlate_dense")
def _fake(a, b, radius, stride, metric):
    return a.new_empty(_shape(a, radius))


@torch.library.register_fake("regkit::correlate_dense_backward")
def _fake_backward(grad, a, b, radius, stride, metric, need_a, need_b):
    return a.new_empty(a.shape if need_a else 0), b.new_empty(b.shape if need_b else 0)


def _shape(a: torch.Tensor, radius: int) -> tuple[int, ...]:
    return a.shape[0], (2 * radius + 1) ** (a.dim() - 2), *a.shape[2:]


def _inputs(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Contiguous tensors of one dtype: their own, or the working dtype where they differ."""
    same = len({x.dtype for x in tensors}) == 1
    return tuple(x.contiguous() if same else x.to(native.working_dtype(*tensors)).contiguous() for x in tensors)


def _arguments(a: torch.Tensor, radius: int, stride: int, metric: int) -> tuple:
    """What every launcher takes after its addresses."""
    radii = native.sizes((radius,) * (a.dim() - 2), missing=0)
    return *a.shape[:2], native.sizes(a.shape[2:]), radii, stride, METRICS[metric] == "ssd", torch.get_num_threads()


def _cpp(a, b, radius, stride, metric):
    x, y = _inputs(a, b)
    out = x.new_empty(_shape(a, radius))
    native.function("correlate_dense", x.dtype)(*map(native.address, (x, y, out)), *_arguments(a, radius, stride, metric))
    return out.to(a.dtype)


def _gradients(run, grad, a, b, need_a, need_b) -> tuple[torch.Tensor, torch.Tensor]:
    """run(grad, own, other, second, gradient) for each map that needs its gradient, `own` being the second where `second`."""
    g, x, y = _inputs(grad, a, b)
    gradients = []
    for own, other, like, second, need in ((x, y, a, False, need_a), (y, x, b, True, need_b)):
        gradient = own.new_empty(own.shape if need else 0)
        if need:
            run(g, own, other, second, gradient)
        gradients.append(gradient.to(like.dtype))
    return tuple(gradients)


def _cpp_backward(grad, a, b, radius, stride, metric, need_a, need_b):
    def run(g, own, other, second, gradient):
        addresses = (native.address(g), native.address(own), native.address(other), second, native.address(gradient))
        native.function("correlate_dense_backward", g.dtype)(*addresses, *_arguments(a, radius, stride, metric))

    return _gradients(run, grad, a, b, need_a, need_b)


def _cuda_arguments(a: torch.Tensor, radius: int, metric: int) -> tuple:
    return a.dim() - 2, radius, *a.shape[:2], native.sizes(a.shape[2:]), METRICS[metric] == "ssd", cuda.STORED[a.dtype]


def _cuda(a, b, radius, stride, metric):
    x, y = _inputs(a, b)
    out = x.new_empty(_shape(a, radius))
    cuda.run("correlate_dense", x, y, out, *_cuda_arguments(x, radius, metric), device=a.device)
    return out.to(a.dtype)


def _cuda_backward(grad, a, b, radius, stride, metric, need_a, need_b):
    def run(*tensors_and_second):
        own = tensors_and_second[1]
        cuda.run("correlate_dense_backward", *tensors_and_second, *_cuda_arguments(own, radius, metric), device=own.device)

    return _gradients(run, grad, a, b, need_a, need_b)


def _on_gpu(op: str, by_cuda):
    """CUDA C++ for what it is compiled for, Triton for strides, float64, large radii and maps without channels."""

    def serves(*args) -> bool:
        a, b, radius, stride = args[1:5] if op == "correlate_dense_backward" else args[:4]
        fits = stride == 1 and 1 <= radius <= cuda.extension().correlate_dense_radius
        return fits and a.shape[1] > 0 and native.working_dtype(a, b) == torch.float32

    return cuda.kernel(by_cuda, triton_kernel("correlate_dense", op), serves)


register(
    "correlate_dense", reference=reference.correlate_dense, cpp=_cpp, cuda=_on_gpu("correlate_dense", _cuda),
    triton=triton_kernel("correlate_dense", "correlate_dense"),
)  # fmt: skip
register(
    "correlate_dense_backward", reference=reference.correlate_dense_backward, cpp=_cpp_backward,
    cuda=_on_gpu("correlate_dense_backward", _cuda_backward),
    triton=triton_kernel("correlate_dense", "correlate_dense_backward"),
)  # fmt: skip


def _setup_context(ctx, inputs, output):
    ctx.options = inputs[2:]
    ctx.save_for_backward(*inputs[:2])


def _backward(ctx, grad):
    need_a, need_b = ctx.needs_input_grad[:2]
    grad_a, grad_b = torch.ops.regkit.correlate_dense_backward(grad, *ctx.saved_tensors, *ctx.options, need_a, need_b)
    return grad_a if need_a else None, grad_b if need_b else None, None, None, None


torch.library.register_autograd("regkit::correlate_dense", _backward, setup_context=_setup_context)
