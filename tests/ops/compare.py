"""One measure for comparing tensors: relative RMS error, with the tensor's name in the message."""

import torch


def assert_close(name: str, got: torch.Tensor, want: torch.Tensor, tolerance: float) -> None:
    """Asserts that RMS(got - want) <= tolerance * RMS(want); NaN and infinity must stand at the same places."""
    assert got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    got, want = got.detach().double().cpu(), want.detach().double().cpu()
    finite = want.isfinite()
    assert torch.equal(got.isfinite(), finite), (
        f"{name}: {int((got.isfinite() != finite).sum())} values are finite in one and not in the other"
    )
    if not finite.any():
        return
    error = (got - want)[finite].square().mean().sqrt()
    scale = want[finite].square().mean().sqrt()
    assert error <= tolerance * scale, f"{name}: relative RMS error {float(error / scale):.2e}, allowed {tolerance:.0e}"
