"""An auto-encoder of label maps: its code of a few numbers says what shape a map has, so that shapes can be compared by their codes."""

import torch
from torch import nn

REDUCTION = 8  # of the size, before the code


class LabelAutoencoder(nn.Module):
    """AC-RegNet's auto-encoder of 2-D one-hot label maps: five convolutions down to one channel of an eighth of the size, a linear code,
    and back up by nearest neighbours and convolutions. 40,533 parameters for 2 classes, size 64 and a code of 32.

    classes: channels of the maps, the background first. size: voxels along both axes, a multiple of 16. code: its length.

    Convolutions have 3^2 taps, batch norm and ReLU, but for the last one. They have biases too, as in the authors' torch
    code; the weights begin as in their code for TensorFlow. Trained on maps with noise, to give back the clean ones, by cross-entropy.
    Source: Mansilla et al., Learning deformable registration of medical images with anatomical constraints, Neural Networks 2020;
    https://github.com/lucasmansilla/ACRN_Chest_X-ray_IA. He et al. (Applied Intelligence 2022) take it over.
    """

    multiple = 16
    dims = 2
    reads = ("labels",)

    def __init__(self, classes: int = 2, size: int = 64, code: int = 32):
        super().__init__()
        if classes < 2 or code < 1:
            raise ValueError(f"classes must be at least 2 and code at least 1, but came as {classes} and {code}")
        if size < 1 or size % self.multiple:
            raise ValueError(f"size must be a multiple of {self.multiple}, but came as {size}")
        self.classes, self.size, coarse = classes, size, size // REDUCTION
        self.encoder = nn.Sequential(
            *_layer(classes, 16, 2), *_layer(16, 16), *_layer(16, 32, 2), *_layer(32, 32), *_layer(32, 1, 2), nn.Flatten()
        )
        self.to_code = nn.Linear(coarse**2, code)
        self.from_code = nn.Sequential(nn.Linear(code, coarse**2), nn.ReLU(), nn.Unflatten(1, (1, coarse, coarse)))
        self.decoder = nn.Sequential(
            *(nn.Upsample(scale_factor=2), *_layer(1, 32), *_layer(32, 32)),
            *(nn.Upsample(scale_factor=2), *_layer(32, 16), *_layer(16, 16)),
            *(nn.Upsample(scale_factor=2), *_layer(16, 16)),
            nn.Conv2d(16, classes, 3, padding=1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def encode(self, maps: torch.Tensor) -> torch.Tensor:
        """The codes (B, code), float32, of maps (B, classes, size, size): one-hot, or probabilities.

        Raises ValueError for other shapes.
        """
        if tuple(maps.shape[1:]) != (self.classes, self.size, self.size):
            raise ValueError(f"maps must be (B, {self.classes}, {self.size}, {self.size}), but came as {tuple(maps.shape)}")
        return self.to_code(self.encoder(maps)).float()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes, size, size), float32, of the maps that the codes stand for. Raises as `encode` does."""
        return self.decoder(self.from_code(self.encode(maps))).float()


def _layer(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
