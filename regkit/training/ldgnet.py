"""Training LDGNet: as VoxelMorph is trained (Sun & Du)."""

from dataclasses import dataclass
from typing import Literal

from regkit.models.ldgnet import LDGNet
from regkit.training.single_stage import SingleStage
from regkit.training.voxelmorph import VoxelMorphLoss, VoxelMorphTask


@dataclass(frozen=True)
class LDGNetNetwork:
    """Arguments of regkit.models.LDGNet."""

    guidance: bool = True
    """Gates at the skips."""
    enhancement: bool = True
    """Dilated convolutions at the coarsest grid."""
    dilations: tuple[int, ...] = (6, 12, 18)
    """The paper's; of grids that are smaller than them, 1, 2, 3 see more."""
    variant: Literal["vxm-1", "vxm-2"] = "vxm-2"
    dims: int = 3


@dataclass(frozen=True)
class LDGNetTraining(SingleStage):
    """Everything that `regkit train ldgnet` can be told."""

    network: LDGNetNetwork = LDGNetNetwork()
    loss: VoxelMorphLoss = VoxelMorphLoss()
    steps: int = 40_300
    """The paper's 100 epochs of 403 pairs."""

    @property
    def multiple(self) -> int:
        """Of which the sizes of the network's frame are."""
        return LDGNet.multiple


class LDGNetTask(VoxelMorphTask):
    """LDGNet, learning from pairs."""

    kind = "ldgnet"
    network: LDGNet
