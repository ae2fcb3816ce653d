"""lncc: squared local normalised cross-correlation."""

import torch

from regkit import reference
from regkit.ops import check, cuda, lncc_cuda, native
from regkit.ops.backends import register, triton_kernel
from regkit.ops.chained import chained


def lncc(
    a: torch.Tensor,  # (B, C, *spatial)
    b: torch.Tensor,  # (B, C, *spatial)
    *,
    window: int = 9,
    weight: torch.Tensor | None = None,  # (B, 1, *spatial)
    reduction: str = "mean",
    eps: float = 1e-5,
) -> torch.Tensor:  # scalar, or (B, C, *spatial)
    """Squared local normalised cross-correlation, 0 (unrelated) to 1 (locally linear to each other).

    With box sums S over the n = window^D voxels around each voxel (zeros outside the image):

        c = Sab - Sa Sb / n,   va = max(Saa - Sa^2 / n, 0) + eps,   vb likewise,   ncc = c^2 / (va vb)

    reduction: "mean" over all voxels (weighted mean `sum(weight * ncc) / sum(weight)` if a weight is given), or "none" for the map (takes
        no weight).
    Differentiable once by both images. Images are shifted by their mean before they are squared, so bright images lose no precision; the
    cost does not grow with the window. A scalar's gradient is computed in the forward sweep: keep it out of torch.no_grad() only where it
    is needed.
    The mean is float32 (float64 for float64 images), the map has a's dtype. eps is in squared intensities times voxels: scale images to
    about [0, 1].

    Source: Avants et al. 2008; the squared form and zero padding as in VoxelMorph and MONAI (which clamp rather than add eps).
    Raises ValueError for shapes, window and options, TypeError for dtypes.
    """
    check.image(a, "a")
    check.floating(a, "a")
    check.floating(b, "b")
    check.same("shapes", a=tuple(a.shape), b=tuple(b.shape))
    check.same("device", a=a.device, b=b.device)
    check.odd_window(window)
    if check.choice(reduction, "reduction", ("mean", "none")):
        if weight is not None:
            raise ValueError("weight is for reduction='mean'; multiply the map by it instead")
        return torch.ops.regkit.lncc_map(a, b, window, eps)
    if weight is not None:
        check.same("shapes", weight=tuple(weight.shape), **{"one channel of a": (a.shape[0], 1, *a.shape[2:])})
    differentiate = torch.is_grad_enabled()
    return torch.ops.regkit.lncc(a, b, weight, window, eps, differentiate and a.requires_grad, differentiate and b.requires_grad)[0]


torch.library.define(
    "regkit::lncc", "(Tensor a, Tensor b, Tensor? weight, int window, float eps, bool need_a, bool need_b) -> (Tensor, Tensor, Tensor)"
)
torch.library.define("regkit::lncc_map", "(Tensor a, Tensor b, int window, float eps) -> Tensor")
torch.library.define(
    "regkit::lncc_map_backward", "(Tensor grad, Tensor a, Tensor b, int window, float eps, bool need_a, bool need_b) -> (Tensor, Tensor)"
)


@torch.library.register_fake("regkit::lncc")
def _fake(a, b, weight, window, eps, need_a, need_b):
    dtype = native.working_dtype(a, b)
    gradients = (a.new_empty(a.shape if need else 0, dtype=dtype) for need in (need_a, need_b))
    return a.new_empty((), dtype=dtype), *gradients


@torch.library.register_fake("regkit::lncc_map")
def _fake_map(a, b, window, eps):
    return a.new_empty(a.shape)


@torch.library.register_fake("regkit::lncc_map_backward")
def _fake_map_backward(grad, a, b, window, eps, need_a, need_b):
    return a.new_empty(a.shape if need_a else 0), b.new_empty(b.shape if need_b else 0)


def _sweep(a, b, *, window, eps, weight=None, volumes_per_weight=1, want_map=False, need_a=False, need_b=False, scale=1.0):
    """One sweep of the C++ kernel -> map, sum(weight * ncc), gradients times scale (None where not wanted)."""
    dtype = native.working_dtype(a, b)
    x, y = a.to(dtype).contiguous(), b.to(dtype).contiguous()
    w = None if weight is None else weight.to(dtype).contiguous()
    ncc_map, grad_a, grad_b = (x.new_empty(x.shape) if wanted else None for wanted in (want_map, need_a, need_b))
    total = torch.empty((), dtype=torch.float64)
    windows = native.sizes((window,) * (a.dim() - 2))
    native.function("lncc", dtype)(
        *map(native.address, (x, y, w)), volumes_per_weight, *map(native.address, (ncc_map, grad_a, grad_b, total)),
        scale, a.shape[0] * a.shape[1], native.sizes(a.shape[2:]), windows, eps, torch.get_num_threads(),
    )  # fmt: skip
    return ncc_map, total, grad_a, grad_b


def _cpp(a, b, weight, window, eps, need_a, need_b):
    count = a.numel() if weight is None else weight.sum(dtype=torch.float64).item() * a.shape[1]
    dtype = native.working_dtype(a, b)
    if count == 0:  # nothing to average: NaN, as torch's mean, and no gradient
        return a.new_full((), float("nan"), dtype=dtype), *(a.new_zeros(a.shape if need else 0, dtype=dtype) for need in (need_a, need_b))
    _, total, grad_a, grad_b = _sweep(
        a, b, window=window, eps=eps, weight=weight, volumes_per_weight=a.shape[1], need_a=need_a, need_b=need_b, scale=1 / count
    )
    return (total / count).to(dtype), *(a.new_empty(0, dtype=dtype) if g is None else g for g in (grad_a, grad_b))


def _cpp_map(a, b, window, eps):
    return _sweep(a, b, window=window, eps=eps, want_map=True)[0].to(a.dtype)


def _cpp_map_backward(grad, a, b, window, eps, need_a, need_b):
    _, _, grad_a, grad_b = _sweep(a, b, window=window, eps=eps, weight=grad, need_a=need_a, need_b=need_b)
    return _or_empty(grad_a, a), _or_empty(grad_b, b)


def _or_empty(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return like.new_empty(0) if gradient is None else gradient.to(like.dtype)


def _cuda(op: str):
    """The op by CUDA C++, or by Triton what those kernels are not made for."""

    def serves(*args) -> bool:
        a, b = args[1:3] if op == "lncc_map_backward" else args[:2]
        return lncc_cuda.serves(a, b, args[2] if op == "lncc_map" else args[3])

    return cuda.kernel(getattr(lncc_cuda, op), triton_kernel("lncc", op), serves)


for op, by_reference, by_cpp in (
    ("lncc", reference.lncc, _cpp),
    ("lncc_map", reference.lncc_map, _cpp_map),
    ("lncc_map_backward", reference.lncc_map_backward, _cpp_map_backward),
):
    register(op, reference=by_reference, cpp=by_cpp, cuda=_cuda(op), triton=triton_kernel("lncc", op))


def _setup_context(ctx, inputs, output):
    ctx.need_a, ctx.need_b = inputs[5:]
    ctx.dtypes = inputs[0].dtype, inputs[1].dtype
    ctx.save_for_backward(output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, *_):
    grad_a, grad_b = ctx.saved_tensors
    if grad is None:
        return (None,) * 7
    return (
        chained(grad, grad_a, ctx.dtypes[0]) if ctx.need_a else None,
        chained(grad, grad_b, ctx.dtypes[1]) if ctx.need_b else None,
        *(None,) * 5,
    )


def _setup_context_map(ctx, inputs, output):
    a, b, ctx.window, ctx.eps = inputs
    ctx.save_for_backward(a, b)


def _backward_map(ctx, grad):
    a, b = ctx.saved_tensors
    need_a, need_b = ctx.needs_input_grad[:2]
    grad_a, grad_b = torch.ops.regkit.lncc_map_backward(grad, a, b, ctx.window, ctx.eps, need_a, need_b)
    return grad_a if need_a else None, grad_b if need_b else None, None, None


torch.library.register_autograd("regkit::lncc", _backward, setup_context=_setup_context)
torch.library.register_autograd("regkit::lncc_map", _backward_map, setup_context=_setup_context_map)
