"""The providers of a case: regkit by each backend that a device has, the peers, and the peers through torch.compile.

A provider that is not there (a package, a backend) is named with the reason. Every provider's outputs, gradients included, are compared
with regkit's before anything is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from regkit import ops
from tests.benchmarks.case import OpCase, Outputs, Peer, Run, Size, relative_rms

BACKENDS = {"cpu": ("cpp",), "cuda": ("cuda", "triton")}  # regkit's, by the device that they compute on


@dataclass(frozen=True)
class Provider:
    name: str
    peer: Peer
    backend: str | None = None  # of regkit
    compiled: bool = False

    def run(self, case: OpCase, made: dict, device: str) -> Run:
        """What is timed: the function on a copy of these inputs, and its gradients where the case has some."""
        inputs = {name: x.to(device, copy=True) if isinstance(x, torch.Tensor) else x for name, x in made.items()}
        grad_out = inputs.pop("grad_out", None)
        if self.peer.prepare:
            inputs = self.peer.prepare(**inputs)
        by = [inputs[name].requires_grad_() for name in case.gradient]
        function = torch.compile(self.peer.function, dynamic=False) if self.compiled else self.peer.function

        def run() -> Outputs:
            returned = function(**inputs)
            outputs = returned if isinstance(returned, tuple) else (returned,)
            if not by:
                return outputs
            return (*(x.detach() for x in outputs), *torch.autograd.grad(outputs[0], by, grad_out))

        return self._by_backend(run) if self.backend else run

    def _by_backend(self, run: Run) -> Run:
        def with_backend() -> Outputs:
            with ops.backend(self.backend):
                return run()

        return with_backend


def of(case: OpCase, size: Size, device: str) -> tuple[dict[str, Provider], dict[str, str]]:
    """The providers that can run, regkit's first; and the others with the reason why not."""
    found: list[Provider] = []
    absent: dict[str, str] = {}
    ours = Peer(case.regkit)
    for backend in BACKENDS[device]:
        if backend in ops.available(case.op):
            found.append(Provider(f"regkit {backend}", ours, backend=backend))
        else:
            absent[f"regkit {backend}"] = f"{case.op} has no {backend} kernel"
    for name, peer in case.peers.items():
        if size.dims not in peer.dims:
            continue
        if device not in peer.devices:
            absent[name] = f"does not run on {device}"
        elif peer.needs and find_spec(peer.needs) is None:
            absent[name] = f"{peer.needs} is not installed"
        else:
            found.append(Provider(name, peer))
            if peer.compile:
                found.append(Provider(f"torch.compile({name})", peer, compiled=True))
    return {provider.name: provider for provider in found}, absent


def difference(case: OpCase, provider: Provider, outputs: Outputs, expected: Outputs) -> float:
    """Largest relative RMS difference between a provider's outputs and regkit's."""
    theirs = case.comparable(provider.peer.comparable(outputs))
    return max(relative_rms(a, b) for a, b in zip(theirs, case.comparable(expected), strict=True))


class Broken(Exception):
    """The device gives nothing but errors since a provider's kernel failed: this process cannot go on."""


@dataclass
class Checked:
    """Runs that gave what they should and are warm; providers that are not there; providers that failed, both with the reason."""

    runs: dict[str, Run]
    absent: dict[str, str]
    failed: dict[str, str]


def checked(
    case: OpCase,
    size: Size,
    device: str,
    skip: Callable[[Provider], str | None] = lambda provider: None,
    at: Callable[[str], None] = lambda name: None,
) -> Checked:
    """One run of every provider, compared with regkit's. `skip` may say why a provider is left out; `at` hears who runs next."""
    there, absent = of(case, size, device)
    found = Checked({}, absent, {})
    made = case.make(size)
    expected, expected_of = None, ""
    for name, provider in there.items():
        if reason := skip(provider):
            absent[name] = reason
            continue
        at(name)
        if provider.compiled and not any(there[earlier].compiled for earlier in found.runs):
            torch._dynamo.reset()  # cases share code; without this torch stops compiling after some sizes
        try:
            run = provider.run(case, made, device)
            outputs = run()
            if device != "cpu":
                torch.cuda.synchronize()  # its errors are its own, not the next one's
            if expected is None:
                expected, expected_of = outputs, name
            else:
                by = difference(case, provider, outputs, expected)
                if not by <= case.tolerance:
                    raise AssertionError(f"differs from {expected_of} by {by:.1e} (relative RMS; at most {case.tolerance:.0e})")
            found.runs[name] = run
        except Exception as error:  # must not hide the others' figures; it is shown and recorded, and the exit code tells
            cannot = provider.compiled and not isinstance(error, AssertionError) or not provider.backend and isinstance(error, ImportError)
            (absent if cannot else found.failed)[name] = one_line(error)
            if device != "cpu":
                still_works(device)
    return found


def still_works(device: str) -> None:
    """Raises Broken where a failure, such as an illegal address, has left the GPU's context useless."""
    try:
        torch.cuda.empty_cache()
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError as error:
        raise Broken(one_line(error)) from error


def one_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:200]
