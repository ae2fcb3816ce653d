"""The published LapIRN in the publications' terms, to compare with: the authors' names of weights, fields in torch's grid_sample units.

Components run x, y, z (last array axis first), and 1 is half an image. Nothing of regkit is used.
"""

import torch
import torch.nn.functional as F

LINEAR = {2: "bilinear", 3: "trilinear"}


def weights(levels: int, channels: int, dims: int, conditional: bool = False, lite: bool = False) -> dict[str, torch.Tensor]:
    """Random weights under the names in the authors' checkpoints."""
    generator, made = torch.Generator().manual_seed(levels + channels), {}

    def convolution(name: str, outputs: int, inputs: int, size: int = 3) -> None:
        shape = (outputs, inputs, *[size] * dims)
        made[name + ".weight"] = torch.randn(shape, generator=generator) * (2 / (inputs * size**dims)) ** 0.5

    def linear(name: str, outputs: int, inputs: int) -> None:
        made[name + ".weight"] = torch.randn((outputs, inputs), generator=generator) * (2 / inputs) ** 0.5
        made[name + ".bias"] = torch.randn((outputs,), generator=generator) * 0.3

    fine = channels // 2 if lite else channels
    for level in range(1, levels + 1):
        prefix = "".join(f"model_lvl{n}." for n in range(levels - 1, level - 1, -1))
        up = fine if level == levels else channels
        convolution(prefix + "input_encoder_lvl1.0", fine, 2 if level == 1 else 2 + dims)
        convolution(prefix + "input_encoder_lvl1.2", fine, fine)
        convolution(prefix + "down_conv", channels, fine)
        for block in range(0, 10, 2):
            name = f"{prefix}resblock_group_lvl1.{block}."
            for n in (1, 2):
                if conditional:
                    linear(f"{name}ai{n}.style", 2 * channels, 64)
                convolution(f"{name}conv{n}", channels, channels)
            for n in (0, 2, 4, 6) if conditional else ():
                linear(f"{name}mapping.{n}", 64, 64 if n else 1)
        convolution(prefix + "up", up, channels, 2)  # a transposed convolution has its inputs first
        made[prefix + "up.weight"] = made[prefix + "up.weight"].transpose(0, 1).contiguous()
        convolution(prefix + "output_lvl1.0", (up + fine) // 2, up + fine)
        convolution(prefix + "output_lvl1.2", dims, (up + fine) // 2)
    return made


def fields(w: dict[str, torch.Tensor], moving: torch.Tensor, fixed: torch.Tensor, diffeomorphic: bool = False, code: float | None = None):
    """Per level, coarse to fine: the displacement (B, D, *level) in grid_sample's units and order."""
    dims = moving.dim() - 2
    levels = 1 + max(key.count("model_lvl") for key in w)
    images = [torch.cat([moving, fixed], 1)]
    pool = F.avg_pool3d if dims == 3 else F.avg_pool2d
    for _ in range(levels - 1):
        images.insert(0, pool(images[0], 3, 2, 1, count_include_pad=False))
    found, field, embedding = [], None, None
    for level, pair in enumerate(images, start=1):
        prefix = "".join(f"model_lvl{n}." for n in range(levels - 1, level - 1, -1))
        if field is not None:
            field, before = (F.interpolate(x, scale_factor=2, mode=LINEAR[dims], align_corners=False) for x in (field, found[-1]))
            pair = torch.cat([sample(pair[:, :1], before), pair[:, 1:], field], 1)
        step, embedding = one_level({key.removeprefix(prefix): x for key, x in w.items() if key.startswith(prefix)}, pair, embedding, code)
        field = 0.4 * step if field is None else field + 0.4 * step
        found.append(exponential(field) if diffeomorphic else field)
    return found


def one_level(w, pair, embedding, code):
    convolve, transposed = (F.conv3d, F.conv_transpose3d) if pair.dim() == 5 else (F.conv2d, F.conv_transpose2d)
    act = lambda x: F.leaky_relu(x, 0.2)  # noqa: E731
    skip = convolve(act(convolve(pair, w["input_encoder_lvl1.0.weight"], padding=1)), w["input_encoder_lvl1.2.weight"], padding=1)
    x = convolve(skip, w["down_conv.weight"], stride=2, padding=1)
    if embedding is not None:
        x = x + embedding
    for block in range(0, 10, 2):
        name, y = f"resblock_group_lvl1.{block}.", x
        latent = torch.tensor([[code]]) if code is not None else None
        for n in (0, 2, 4, 6) if code is not None else ():
            latent = act(F.linear(latent, w[f"{name}mapping.{n}.weight"], w[f"{name}mapping.{n}.bias"]))
        for n in (1, 2):
            if code is not None:
                style = F.linear(latent, w[f"{name}ai{n}.style.weight"], w[f"{name}ai{n}.style.bias"])[0]
                gain, shift = (s.reshape(1, -1, *[1] * (x.dim() - 2)) for s in style.chunk(2))
                axes = tuple(range(2, x.dim()))
                y = (y - y.mean(axes, keepdim=True)) / (y.var(axes, correction=0, keepdim=True) + 1e-5).sqrt() * (1 + gain) + shift
            y = convolve(act(y), w[f"{name}conv{n}.weight"], padding=1)
        x = act(x + y)
    embedding = transposed(x, w["up.weight"], stride=2)
    head = act(convolve(torch.cat([embedding, skip], 1), w["output_lvl1.0.weight"], padding=1))
    return F.softsign(convolve(head, w["output_lvl1.2.weight"], padding=1)), embedding


def sample(image: torch.Tensor, field: torch.Tensor, padding: str = "border") -> torch.Tensor:
    """image at x + field(x), in grid_sample's units."""
    dims = image.dim() - 2
    identity = F.affine_grid(torch.eye(dims, dims + 1)[None], [1, 1, *field.shape[2:]], align_corners=True)
    return F.grid_sample(image, identity + field.movedim(1, -1), padding_mode=padding, align_corners=True)


def exponential(field: torch.Tensor, padding: str = "border") -> torch.Tensor:
    field = field / 2**7
    for _ in range(7):
        field = field + sample(field, field, padding)
    return field


def in_voxels(field: torch.Tensor) -> torch.Tensor:
    """From grid_sample's units and order to voxels in axis order."""
    half = [(n - 1) / 2 for n in field.shape[2:]]
    return field.flip(1) * torch.tensor(half).reshape(-1, *[1] * len(half))
