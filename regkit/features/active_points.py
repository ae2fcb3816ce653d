"""Active points: places drawn by how much an image tells there, and how far it moves there, so that large motion is not drowned in small.

In a registration of brains three quarters of the voxels move by less than a millimetre. A network that learns from places drawn evenly
learns to say 0. With a place u, its displacement phi(u) and its importance I(u), Cao et al. draw it with probability

    P(u) = exp(-omega / (|phi(u)| I(u) / tau)),

0 where |phi| is 0 or beyond tau. omega follows from how many places are wanted: the sum of P.
Source: Cao et al., Deformable image registration based on similarity-steered CNN regression, MICCAI 2017, Eq. (1).
"""

import torch

from regkit.features.gradient import gradient

HALVINGS = 100


def importance(image: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """(1, 1, *spatial) from 0 to 1: the length of the image's gradient over the longest one; 0 outside the mask."""
    length = gradient(image).square().sum(2).sqrt()
    if mask is not None:
        length = length * (mask > 0)
    return length / length.amax().clamp_min(torch.finfo(length.dtype).tiny)


def probabilities(weight: torch.Tensor, count: float) -> torch.Tensor:
    """exp(-omega / weight), 0 where weight is 0 or NaN, with the omega by which they add up to `count`; in float64, of weight's shape.

    Where fewer places than `count` have a weight, all of them are certain.
    """
    rates = torch.where(weight > 0, 1 / weight.double().clamp_min(1e-300), torch.inf)
    if count >= int(rates.isfinite().sum()):
        return rates.isfinite().double()
    low, high = 0.0, float(rates[rates.isfinite()].amin())  # of omega; more than `count` add up at its low end
    while float((-high * rates).exp().sum()) > count:
        high *= 2
    for _ in range(HALVINGS):
        omega = 0.5 * (low + high)
        if omega in (low, high):
            break
        low, high = (omega, high) if float((-omega * rates).exp().sum()) > count else (low, omega)
    return torch.where(rates.isfinite(), (-high * rates).exp(), 0.0)


def active_points(weight: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """(N, D) int64 voxels of weight (1, 1, *spatial), each drawn by its probability; N is near `count`."""
    drawn = torch.rand(weight.shape, generator=generator, dtype=torch.float64, device=weight.device) < probabilities(weight, count)
    return drawn[0, 0].nonzero()


def equalised(displacement: torch.Tensor, importance: torch.Tensor, *, longest: float, saturate: bool = False) -> torch.Tensor:
    """The weight |phi| I / tau of Eq. (1), (1, 1, *spatial): of a displacement (1, D, *spatial) and tau = `longest`, both in one unit.

    Displacements beyond `longest` count nothing, which is the paper's formula; with `saturate` they count as `longest`, as its text says.
    """
    length = displacement.square().sum(1, keepdim=True).sqrt()
    length = length.clamp_max(longest) if saturate else torch.where(length > longest, 0.0, length)
    return length * importance / longest
