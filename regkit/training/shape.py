"""What the trainings of chest X-rays add to the similarity of the images: labels, the code of their shape, and the field's smoothness."""

from dataclasses import dataclass

import torch

from regkit import losses, ops
from regkit.errors import InputError, UsageError
from regkit.models.label_autoencoder import LabelAutoencoder
from regkit.models.layers import AVERAGE_POOL
from regkit.models.weights import load_model


@dataclass(frozen=True)
class ShapeWeights:
    """Weights of the terms that need label maps, and of the field's total variation."""

    cross_entropy: float = 1.0
    floor: float = 0.05
    """Probability that the cross-entropy takes a label to have at least (regkit.losses.label_cross_entropy). Without it training is far
    slower: on Montgomery's X-rays, Dice of new pairs after 500 steps 0.77 with 0, 0.91 with 0.05."""
    code: float = 0.1
    """Of the squared distance of the codes; needs `autoencoder`."""
    total_variation: float = 3.5
    """Of the mean over pixels and axes, in voxels of the frame."""
    smoothness: float = 0.0
    """Of the mean square of the same differences: code that is passed around under the name of total variation squares them."""
    folds: float = 0.0
    ac_compat: bool = False
    """Cross-entropy as AC-RegNet's code has it: warped probabilities taken as logits."""

    def __post_init__(self):
        weights = {name: getattr(self, name) for name in ("cross_entropy", "code", "total_variation", "smoothness", "folds")}
        if min(weights.values()) < 0:
            raise UsageError(f"weights of the loss must be at least 0, but are {', '.join(f'{k} {v}' for k, v in weights.items())}")
        if not 0 <= self.floor < 1:
            raise UsageError(f"floor must be at least 0 and below 1, but is {self.floor}")


class ShapeLoss:
    """The terms of `ShapeWeights`. autoencoder: weights of a trained one; none where its term has no weight. One for smaller maps is given
    means over so many voxels.

    Raises InputError where they are not an auto-encoder's, or of other labels or another frame.
    """

    def __init__(self, weights: ShapeWeights, labels: tuple[int, ...], shape: tuple[int, ...], autoencoder: str | None):
        self.weights, self.labels, self.encoder = weights, labels, None
        if not weights.code:
            return
        if autoencoder is None:
            raise UsageError("loss.code needs a trained auto-encoder: set autoencoder to its weights, or loss.code = 0.0")
        network, card = load_model(autoencoder)
        if not isinstance(network, LabelAutoencoder):
            raise InputError(f"{autoencoder} is a {card.network}; give the weights of a label-autoencoder")
        self.shrink = shape[0] // network.size
        if network.classes != 1 + len(labels) or any(n != self.shrink * network.size for n in shape):
            raise InputError(
                f"{autoencoder} is for {network.classes} classes on {network.size} pixels an axis, and these are {1 + len(labels)} on "
                f"{shape}; train one on these data"
            )
        self.encoder = network.eval().requires_grad_(False)

    def terms(self, u: torch.Tensor, fixed_labels: torch.Tensor, moving_labels: torch.Tensor, regularised: torch.Tensor | None = None):
        """The terms by name; regularised: the field whose variation counts, `u` itself by default."""
        weights, terms = self.weights, {}
        if weights.cross_entropy:
            terms["cross_entropy"] = weights.cross_entropy * losses.label_cross_entropy(
                fixed_labels, moving_labels, u, labels=self.labels, floor=weights.floor, ac_compat=weights.ac_compat
            )
        if self.encoder is not None:
            self.encoder.to(u.device)
            warped = ops.warp(losses.one_hot(moving_labels, self.labels), u, padding="border")
            maps = losses.one_hot(fixed_labels, self.labels), warped
            codes = [self.encoder.encode(AVERAGE_POOL[x.dim() - 2](x, self.shrink)) for x in maps]
            terms["code"] = weights.code * (codes[0] - codes[1]).square().sum(1).mean()
        field = u if regularised is None else regularised
        if weights.total_variation:
            terms["total_variation"] = weights.total_variation * losses.total_variation_loss(field)
        if weights.smoothness:
            terms["smoothness"] = losses.smoothness_loss(field, weight=weights.smoothness)
        if weights.folds:
            terms["folds"] = weights.folds * losses.fold_loss(u)
        return terms
