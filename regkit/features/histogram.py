"""Grey values of one image in the distribution of another's, so that what is alike looks alike."""

import torch

QUANTILES = 256


def matched(image: torch.Tensor, template: torch.Tensor, background: float = 0.0) -> torch.Tensor:
    """The image, of any shape, with each grey value above the background moved to the template's of the same rank.

    Both distributions are taken at `QUANTILES` + 1 quantiles of what is above `background`, and are linear in between; the rest of the
    image stays. An image or a template that is all background changes nothing.
    Source: Nyul, Udupa & Zhang, New variants of a method of MRI scale standardization, IEEE TMI 2000, with all quantiles as landmarks.
    """
    inside, known = image[image > background], template[template > background]
    if not inside.numel() or not known.numel():
        return image.clone()
    share = torch.linspace(0, 1, QUANTILES + 1, device=image.device)
    source, target = (_quantiles(values, share) for values in (inside, known))
    upper = torch.searchsorted(source, inside).clamp(1, QUANTILES)
    low, high = source[upper - 1], source[upper]
    fraction = ((inside - low) / (high - low).clamp_min(torch.finfo(source.dtype).tiny)).clamp(0, 1)
    result = image.clone()
    result[image > background] = torch.lerp(target[upper - 1], target[upper], fraction)
    return result


def _quantiles(values: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """torch.quantile takes no more than 2^24 values."""
    ordered = values.sort().values
    place = share * (len(ordered) - 1)
    low = place.floor().long()
    return torch.lerp(ordered[low], ordered[(low + 1).clamp_max(len(ordered) - 1)], (place - low).to(ordered.dtype))
