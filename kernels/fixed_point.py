"""The step of the whole numbers in which scatters add where results must be the same bits in every run: the order of additions does not
change their sum. Shared by Triton's and CUDA C++'s kernels."""

import torch


def unit(largest: torch.Tensor, count: int) -> torch.Tensor:
    """Step of 64-bit fixed point numbers in which `count` values of at most |largest| can be summed without overflow; a tensor, no sync.

    Steps are powers of two, so that scaling by them rounds nothing. NaN or infinity in `largest` gives a NaN unit, and so NaN sums.
    """
    bits = 62 - max(1, count).bit_length()
    exponent = torch.frexp(largest.detach().double())[1]
    step = torch.ldexp(torch.ones((), dtype=torch.float64, device=largest.device), exponent - bits)
    return torch.where(largest.isfinite(), step, float("nan"))
