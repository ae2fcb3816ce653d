"""regkit demo: a registration from nothing, on the made thorax whose true displacement is known, or on the user's own pair."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from regkit.errors import UsageError


@dataclass
class Demo:
    """Register the built-in phantom (a thorax breathed in and out, with landmarks), or your own pair, and say how well it went."""

    fixed: Annotated[Path | None, arg(aliases=["-f"], metavar="FIXED", help_behavior_hint="(default: the phantom)")] = None
    """Your own fixed scan."""
    moving: Annotated[Path | None, arg(aliases=["-m"], metavar="MOVING", help_behavior_hint="(default: the phantom)")] = None
    """Your own moving scan."""
    out: Annotated[Path, arg(aliases=["-o"], metavar="OUT")] = Path("regkit-demo")
    """Directory for the results."""
    preset: Annotated[str | None, arg(metavar="P", help_behavior_hint="(default: ct-lung for the phantom, generic for your pair)")] = None
    """Preset of regkit register."""
    shape: Annotated[tuple[int, int, int], arg(metavar="I J K")] = (192, 160, 160)
    """Voxels of the phantom."""
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto"
    """Where to compute."""
    threads: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""
    seed: Annotated[int, arg(metavar="S")] = 0
    """Seed of the phantom and of the registration."""
    quiet: Annotated[bool, arg(help_behavior_hint="")] = False
    """No progress, figures only."""

    def run(self) -> int:
        """Register and print the figures; 0 when done. Raises RegkitError."""
        if (self.fixed is None) != (self.moving is None):
            raise UsageError("regkit demo registers your own pair when given both --fixed and --moving, or the phantom when given neither")
        from regkit.commands.config import build
        from regkit.commands.console import progress
        from regkit.commands.summary import summary
        from regkit.registration.save import REPORT, check_output, save_result

        own = self.fixed is not None
        config = build(self.preset or ("generic" if own else "ct-lung"), None)
        check_output(self.out)
        from regkit.registration import register

        report = {}
        with progress(self.quiet) as callback:
            if own:
                pair = {"fixed": self.fixed, "moving": self.moving}
            else:
                from regkit.data import phantom

                callback("make phantom", 0.0)
                made = phantom(self.shape, seed=self.seed)
                callback("make phantom", 1.0)
                pair = {"fixed": made.fixed, "moving": made.moving, "fixed_mask": made.fixed_mask, "moving_mask": made.moving_mask}
            result = register(**pair, config=config, device=self.device, threads=self.threads, seed=self.seed, progress=callback)
            if not own:
                callback("evaluate", 0.0)
                points = {"fixed_points": made.fixed_points, "moving_points": made.moving_points}
                evaluation = result.evaluate(fixed_labels=made.fixed_labels, moving_labels=made.moving_labels, **points)
                report = {"evaluation": evaluation, **{name: part.coordinates for name, part in points.items()}}
                callback("evaluate", 1.0)
            callback("write", 0.0)
            save_result(result, self.out, report=report)
            callback("write", 1.0)
        lines = summary(result)
        if report:
            before, after = (report["evaluation"]["tre_mm"][when] for when in ("before", "after"))
            lines.insert(0, f"landmark error (TRE) {before['mean']:.2f} mm before, {after['mean']:.2f} mm after ({after['n']} landmarks)")
        print("\n".join([*lines, f"report: {self.out / REPORT}"]))
        return 0
