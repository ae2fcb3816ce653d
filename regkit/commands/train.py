"""regkit train: train a network on the scans of a manifest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from regkit.errors import UsageError


@dataclass
class Train:
    """Train a registration network on the scans of a manifest.

    Writes OUT/model.safetensors (the best weights, with their card), last.safetensors, checkpoints/, config.toml, log.jsonl, tensorboard/.
    Several processes: torchrun --nproc-per-node=N -m regkit.cli train ...
    """

    network: Annotated[Positional[str], arg(metavar="NETWORK")]
    """lapirn, conditional-lapirn, voxelmorph, ldgnet, graphregnet, similarity-cnn, attention-fusion, ac-regnet, segmentation-unet or
    label-autoencoder."""
    data: Annotated[Path | None, arg(metavar="CSV", help_behavior_hint="(needed)")] = None
    """Manifest: a line a scan (image, label, mask, landmarks, split, group); see regkit data."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT", help_behavior_hint="(needed)")] = None
    """Directory of the training; made when missing."""
    config: Annotated[Path | None, arg(metavar="C", help_behavior_hint="")] = None
    """TOML file whose keys replace the defaults (see --print-config)."""
    resume: Annotated[bool, arg(help_behavior_hint="")] = False
    """Go on from the newest checkpoint in OUT, with the configuration that is there."""
    cache: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: .regkit-cache beside CSV)")] = None
    """Where prepared scans are kept."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: torch's)")] = None
    """CPU threads of a process."""
    print_config: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print the configuration as TOML, as --config reads it, and stop."""
    quiet: Annotated[bool, arg(help_behavior_hint="")] = False
    """Say nothing."""

    def run(self) -> int:
        """Train; 0 when done. Raises RegkitError."""
        from regkit.registration.toml import override, read_toml, to_toml
        from regkit.training.run import CONFIG
        from regkit.training.trainings import training

        config = training(self.network).config()
        source = self.config
        if self.resume and source is None and self.out is not None and (self.out / CONFIG).exists():
            source = self.out / CONFIG
        if source is not None:
            config = override(config, read_toml(source), str(source))
        if self.print_config:
            print(to_toml(config), end="")
            return 0
        missing = [name for name, value in (("--data CSV", self.data), ("-o OUT", self.out)) if value is None]
        if missing:
            raise UsageError(f"regkit train {self.network} needs {', '.join(missing)}; see regkit train --help")
        if self.threads is not None:
            if self.threads < 1:
                raise UsageError(f"--threads {self.threads}: at least 1 thread is needed")
            import torch

            torch.set_num_threads(self.threads)
        from regkit.commands.console import progress
        from regkit.training.start import start

        start(
            self.network,
            config,
            self.data,
            self.out,
            resume=self.resume,
            cache=self.cache,
            quiet=self.quiet,
            progress=lambda: progress(self.quiet),
        )
        return 0
