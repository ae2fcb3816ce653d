"""regkit register: align two scans, with or without a trained network, and write the OUT directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from regkit.errors import UsageError


@dataclass
class Register:
    """Align a moving scan with a fixed one.

    Writes OUT/moved.nii.gz, xfm.h5 and xfm_inverse.h5 (ITK transforms), report.html and run.json.
    """

    fixed: Annotated[Path | None, arg(aliases=["-f"], metavar="FIXED", help_behavior_hint="(needed)")] = None
    """Scan that stays: NIfTI, MHA, NRRD, DICOM folder, or PNG, TIFF, JPEG in 2-D."""
    moving: Annotated[Path | None, arg(aliases=["-m"], metavar="MOVING", help_behavior_hint="(needed)")] = None
    """Scan that is moved onto it."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT", help_behavior_hint="(needed)")] = None
    """Directory for the results; made when missing."""
    preset: Annotated[str | None, arg(metavar="P", help_behavior_hint="(default: generic)")] = None
    """ct-lung, mr-brain, ct-abdomen, xray (2-D), multimodal or generic."""
    model: Annotated[str | None, arg(metavar="NAME|WEIGHTS", help_behavior_hint="")] = None
    """Trained network that finds the motion: one of regkit models, or a .safetensors file."""
    refine: Annotated[bool, arg(help_behavior_hint="")] = False
    """Refine what the network found, as the preset says."""
    no_refine: Annotated[bool, arg(help_behavior_hint="")] = False
    """Keep what the network found (the default, unless --config says otherwise)."""
    smoothness: Annotated[float | None, arg(metavar="0..1", help_behavior_hint="")] = None
    """For networks that leave the choice."""
    fixed_mask: Annotated[Path | None, arg(metavar="F", help_behavior_hint="")] = None
    """Only this region of the fixed scan counts (not 0 = inside)."""
    moving_mask: Annotated[Path | None, arg(metavar="M", help_behavior_hint="")] = None
    """Only this region of the moving scan counts."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """Where to compute."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Same seed, machine and threads: identical output."""
    config: Annotated[Path | None, arg(metavar="C", help_behavior_hint="")] = None
    """TOML file whose keys replace fields of the preset (see --print-config)."""
    header: Literal["auto", "sform", "qform"] = "auto"
    """NIfTI geometry to trust; auto refuses files whose sform and qform disagree."""
    learn2reg: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Also write the displacement into DIR, named and built as Learn2Reg's evaluation takes it."""
    print_config: Annotated[bool, arg(help_behavior_hint="")] = False
    """Print the configuration as TOML, as --config reads it, and stop."""
    quiet: Annotated[bool, arg(help_behavior_hint="")] = False
    """Say nothing."""

    def run(self) -> int:
        """Register; 0 when done. Raises RegkitError."""
        from regkit.commands.config import build
        from regkit.registration.config import with_model

        if self.refine and self.no_refine:
            raise UsageError("--refine and --no-refine contradict each other; leave one out")
        refine = True if self.refine else False if self.no_refine else None
        config = with_model(build(self.preset, self.config), self.model, refine, self.smoothness)
        if self.print_config:
            from regkit.registration.toml import to_toml

            print(to_toml(config), end="")
            return 0
        missing = [
            f"{short} {name}"
            for short, name, value in (("-f", "FIXED", self.fixed), ("-m", "MOVING", self.moving), ("-o", "OUT", self.out))
            if value is None
        ]
        if missing:
            raise UsageError(f"regkit register needs {', '.join(missing)}; see regkit register --help")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads}: at least 1 thread is needed")
        from regkit.commands.console import progress
        from regkit.registration.save import check_output, save_result

        check_output(self.out)
        if self.learn2reg is not None:
            from regkit.geometry.learn2reg import learn2reg_name

            check_output(self.learn2reg)
            learn2reg_name(self.fixed, self.moving)  # a scan that Learn2Reg has no name for is refused before the work
        from regkit.registration import register

        with progress(self.quiet) as callback:
            result = register(
                self.fixed,
                self.moving,
                config=config,
                fixed_mask=self.fixed_mask,
                moving_mask=self.moving_mask,
                device=self.device,
                threads=self.threads,
                seed=self.seed,
                header=self.header,
                progress=callback,
            )
            callback("write", 0.0)
            save_result(result, self.out)
            if self.learn2reg is not None:
                result.save(self.learn2reg, format="l2r")
            callback("write", 1.0)
        if not self.quiet:
            from regkit.commands.summary import summary

            print("\n".join([*summary(result), f"report: {self.out / 'report.html'}"]))
        return 0
