"""Adam for one tensor, as torch.optim.Adam computes it, without that class.

Making the first torch.optim.Adam of a process imports torch's compiler: 2.5 seconds of every `regkit register`. The function behind it,
torch's own, does without.
"""

import torch
from torch.optim.adam import adam


class Adam:
    """Minimises by the gradients in `parameter.grad`. lr, betas, fused: as of torch.optim.Adam."""

    def __init__(self, parameter: torch.Tensor, lr: float, betas: tuple[float, float] = (0.9, 0.999), fused: bool = False):
        self.parameter, self.lr, self.betas, self.fused = parameter, lr, betas, fused
        self.averages = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self.steps = torch.zeros((), device=parameter.device if fused else "cpu")

    def zero_grad(self) -> None:
        """Forgets the gradient."""
        self.parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One step down the gradient."""
        first, second = self.averages
        adam(
            *([one] for one in (self.parameter, self.parameter.grad, first, second)), [], [self.steps], fused=self.fused, foreach=False,
            amsgrad=False, beta1=self.betas[0], beta2=self.betas[1], lr=self.lr, weight_decay=0.0, eps=1e-8, maximize=False,
        )  # fmt: skip
