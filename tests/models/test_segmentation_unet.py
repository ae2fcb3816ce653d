"""The segmentation U-Net: size, what it computes, what it learns, what it refuses."""

import pytest
import torch
import torch.nn.functional as F

from regkit.models import SegmentationUNet
from tests.models.pairs import pair
from tests.ops.compare import assert_close

SIZES = [(16, 32, 16), (32, 48)]
LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def network(size: tuple[int, ...], **options) -> SegmentationUNet:
    torch.manual_seed(0)
    return SegmentationUNet(**{"channels": 4, "dims": len(size)} | options)


@pytest.mark.parametrize(("options", "count"), [({}, 1_942_306), ({"channels": 32}, 7_762_498), ({"classes": 4}, 1_942_306 + 2 * 17)])
def test_parameters(options, count):
    """The 1.9 million of He et al., who name 7.7 million for the U-Net they made smaller."""
    assert sum(p.numel() for p in SegmentationUNet(**options).parameters()) == count


@pytest.mark.parametrize("size", SIZES)
def test_it_is_a_unet(size):
    """In torch's functions and float64, from the weights by their order; the batch norms with statistics of their own."""
    net = network(size, classes=3).eval()
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    w = {name: tensor.double() for name, tensor in net.state_dict().items()}
    dims, image = len(size), pair(size)[0]
    convolve, transposed, pool = {
        2: (F.conv2d, F.conv_transpose2d, F.max_pool2d),
        3: (F.conv3d, F.conv_transpose3d, F.max_pool3d),
    }[dims]

    def twice(x, name):
        for n in (0, 3):
            norm = [w[f"{name}.{n + 1}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            x = F.relu(F.batch_norm(convolve(x, w[f"{name}.{n}.weight"], padding=1), *norm))
        return x

    kept, x = [], image.double()
    for n in range(5):
        x = twice(pool(x, 2) if n else x, f"encode.{n}")
        kept.append(x)
        assert x.shape == (1, 4 * 2**n, *(m // 2**n for m in size))
    kept.pop()
    for n in range(4):
        x = torch.cat([kept.pop(), transposed(x, w[f"up.{n}.weight"], w[f"up.{n}.bias"], 2)], 1)
        x = twice(x, f"decode.{n}")
    with torch.no_grad():
        assert_close("logits", net(image), convolve(x, w["head.weight"], w["head.bias"]), 1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_every_parameter_learns(size):
    image, truth = pair(size, batch=2)
    net = network(size)
    F.cross_entropy(net(image), (truth[:, 0] > 0.5).long()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("training", [True, False])
def test_a_seed_gives_the_same_bits(size, training):
    image, _ = pair(size, batch=2)
    first, second = (network(size).train(training)(image) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("size", SIZES)
def test_bfloat16_and_channels_last_stay_close(size):
    image, _ = pair(size)
    net = network(size).eval()
    with torch.no_grad():
        wanted = net(image)
        net = net.to(memory_format=LAST[len(size)])
        again = net(image.to(memory_format=LAST[len(size)]))
        with torch.autocast("cpu", torch.bfloat16):
            halves = net(image.to(memory_format=LAST[len(size)]))
    assert halves.dtype == torch.float32
    assert_close("channels last", again, wanted, 1e-5)
    assert_close("bfloat16", halves, wanted, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": 1}, "classes must be at least"), ({"channels": 0}, "channels at least 1"), ({"dims": 1}, "dims")],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SegmentationUNet(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((1, 1, 24, 32), "multiples of 16"), ((1, 2, 32, 32), r"image must be \(B, 1, 2 axes\)"), ((1, 1, 32, 32, 32), "2 axes")],
)
def test_wrong_images_are_refused(shape, message):
    assert SegmentationUNet.multiple == 16
    with pytest.raises(ValueError, match=message) as raised:
        network((16, 16))(torch.zeros(shape))
    assert "\n" not in str(raised.value)


def test_training_3d_in_half_precision_is_refused_where_torch_is_wrong():
    image = torch.zeros(2, 1, 32, 16, 16)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="more than 32 voxels along the first axis"):
        network((32, 16, 16))(image)
