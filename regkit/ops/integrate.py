"""integrate_velocity: the displacement that a stationary velocity leads to."""

import torch

from regkit import reference
from regkit.ops import check, cuda, integrate_cuda, native, packed
from regkit.ops.backends import register, triton_kernel
from regkit.reference.integrate import saved_format


def integrate_velocity(
    velocity: torch.Tensor,  # (B, D, *spatial), voxels per unit of time
    *,
    steps: int = 7,
    save_steps: bool = False,
) -> torch.Tensor:  # (B, D, *spatial), voxels
    """Integrates a stationary velocity over unit time by scaling and squaring.

        u_0 = v / 2^steps,   u_{k+1}(x) = u_k(x) + u_k(x + u_k(x)),   result u_steps

    The flow of a smooth velocity is a diffeomorphism; -v gives its inverse. u is interpolated linearly and continues beyond its edge with
    the edge's value, as in `compose`. Equals VoxelMorph's VecInt up to the border (VecInt takes 0 outside). steps=7 is the usual choice;
    steps=0 returns the velocity.
    Differentiable once by the velocity. Only the velocity is kept for backward, which computes the fields u_k anew. save_steps=True keeps
    the `steps` fields instead (D numbers a voxel each): less time, more memory.
    Sums and the fields between are float32 (float64 for float64); the result has the velocity's dtype.

    Source: Arsigny et al. 2006, A Log-Euclidean framework for statistics on diffeomorphisms; Dalca et al. 2018 (VoxelMorph).
    Raises ValueError for shapes and steps, TypeError for dtypes.
    """
    check.displacement(velocity, "velocity")
    check.at_least(steps, "steps", 0)
    save = save_steps and torch.is_grad_enabled() and velocity.requires_grad
    return torch.ops.regkit.integrate_velocity(velocity, steps, save)[0]


# The second result: u_0 .. u_{steps-1} in the working dtype as one batch (steps * B, D, *spatial), or empty.
torch.library.define("regkit::integrate_velocity", "(Tensor velocity, int steps, bool save_steps) -> (Tensor, Tensor)")
# `saved` is that second result; where it is empty, the fields are computed from the velocity, which is not read otherwise.
torch.library.define("regkit::integrate_velocity_backward", "(Tensor grad, Tensor velocity, Tensor saved, int steps) -> Tensor")


def _room(velocity: torch.Tensor, steps: int, save_steps: bool) -> torch.Tensor:
    dtype = native.working_dtype(velocity)
    if not save_steps:
        return velocity.new_empty(0, dtype=dtype)
    shape = (steps * velocity.shape[0], *velocity.shape[1:])
    return torch.empty(shape, dtype=dtype, device=velocity.device, memory_format=saved_format(velocity))


@torch.library.register_fake("regkit::integrate_velocity")
def _fake(velocity, steps, save_steps):
    return velocity.new_empty(velocity.shape), _room(velocity, steps, save_steps)


@torch.library.register_fake("regkit::integrate_velocity_backward")
def _fake_backward(grad, velocity, saved, steps):
    return grad.new_empty(grad.shape)


def _geometry(u: torch.Tensor) -> tuple:
    size = native.sizes(u.shape[2:])
    return u.shape[1], u.shape[0], size, size, torch.get_num_threads()


def _square(u: torch.Tensor, out: torch.Tensor, like: torch.Tensor, last: bool) -> None:
    """out = u o u for a packed u; packed too, or if `last` as volumes of components."""
    native.function("field_compose", u.dtype)(native.address(u), native.address(u), True, native.address(out), not last, *_geometry(like))


def _cpp(velocity, steps, save_steps):
    saved = _room(velocity, steps, save_steps)
    v = velocity.to(saved.dtype).contiguous()
    if steps == 0:
        return velocity.clone(memory_format=torch.contiguous_format), saved
    out = torch.empty_like(v)
    if save_steps:
        fields = saved.tensor_split(steps)
    else:
        # The fields take turns in two places. The last is written to `out`, so the one before it must not lie there.
        places = torch.empty_like(v), out
        fields = [places[(steps - 1 - k) % 2] for k in range(steps)]
    packed.pack(v, 0.5**steps, fields[0])
    for k in range(steps):
        last = k == steps - 1
        _square(fields[k], out if last else fields[k + 1], v, last)
    return out.to(velocity.dtype), saved


def _cpp_backward(grad, velocity, saved, steps):
    dtype = native.working_dtype(grad)
    g = grad.to(dtype).contiguous()
    if steps == 0:
        return grad.clone(memory_format=torch.contiguous_format)
    if saved.dim() > 1:
        fields = list(saved.contiguous(memory_format=saved_format(saved)).tensor_split(steps))
    else:
        fields = [packed.pack(velocity.to(dtype).contiguous(), 0.5**steps)]
        for _ in range(steps - 1):
            fields.append(torch.empty_like(g))
            _square(fields[-2], fields[-1], g, False)
    free = []
    for k in reversed(range(steps)):
        field, out = fields.pop(), free.pop() if free else torch.empty_like(g)
        native.function("field_compose_backward", dtype)(
            native.address(g), k < steps - 1, native.address(field), native.address(field), True, native.address(out), 0, *_geometry(grad)
        )
        if saved.dim() == 1:
            free.append(field)
        elif k < steps - 1:  # saved fields stay, for backward may run again, and the first g is the caller's
            free.append(g)
        g = out
    return packed.unpack(g, grad.shape, 0.5**steps).to(grad.dtype)


def _cuda(op: str):
    """CUDA C++ for fields of float32 and halves, Triton for float64."""

    def serves(first: torch.Tensor, *_) -> bool:
        return native.working_dtype(first) != torch.float64

    return cuda.kernel(getattr(integrate_cuda, op), triton_kernel("integrate", op), serves)


register(
    "integrate_velocity",
    reference=reference.integrate_velocity,
    cpp=_cpp,
    cuda=_cuda("integrate_velocity"),
    triton=triton_kernel("integrate", "integrate_velocity"),
)
register(
    "integrate_velocity_backward",
    reference=reference.integrate_velocity_backward,
    cpp=_cpp_backward,
    cuda=_cuda("integrate_velocity_backward"),
    triton=triton_kernel("integrate", "integrate_velocity_backward"),
)


def _setup_context(ctx, inputs, output):
    velocity, ctx.steps, save_steps = inputs
    ctx.save_for_backward(*((velocity.new_empty(0), output[1]) if save_steps else (velocity, output[1])))
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, grad, _):
    if grad is None:
        return None, None, None
    return torch.ops.regkit.integrate_velocity_backward(grad, *ctx.saved_tensors, ctx.steps), None, None


torch.library.register_autograd("regkit::integrate_velocity", _backward, setup_context=_setup_context)
