"""The command line: parses the verb and its options, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 a bug (traceback), 2 usage, 3 input, 4 memory, 5 a training that cannot go on, 130 interrupted, 141 nobody reads on
what is printed. Verbs live in
regkit.commands and import torch and the like only when they run, so that `regkit --help` answers at once.
"""

import os
import sys
from collections.abc import Sequence

from regkit.errors import MemoryLimitError, RegkitError, UsageError

DESCRIPTION = "Deformable registration of medical images: finds the displacement that aligns a moving scan with a fixed one."
INTERRUPTED = 130
UNREAD = 141  # as a shell has it for what SIGPIPE ends


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv` (default: the process's arguments) and return the exit code."""
    # torch's threads and the kernels' take turns; with OpenMP's default, threads that wait for torch's next loop spin on the cores that the
    # kernels need. OpenMP reads this once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Volumes come and go in every step of an optimisation; with 2 MB pages their first touch costs a tenth of what it does with 4 KB ones.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        code = _run(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()  # here, where a reader that has gone (| head) can be told from a bug
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # python flushes once more when it ends
        return UNREAD
    except RegkitError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written is left", INTERRUPTED)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        hint = "use a smaller image or a preset with a coarser grid, or free memory"
        return _fail(f"out of memory ({' '.join(str(error).split())[:160] or 'no details'}); {hint}", MemoryLimitError.exit_code)


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:
        from regkit import __version__

        print(f"regkit {__version__}")
        return 0
    if not argv:
        _run(["--help"])
        return UsageError.exit_code
    import tyro

    from regkit.commands import VERBS

    try:
        verb = tyro.extras.subcommand_cli_from_dict(
            dict(VERBS), prog="regkit", description=DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
    except SystemExit as leaving:  # tyro has printed help (0) or what was wrong (2)
        return int(leaving.code or 0)
    return verb.run()


def _fail(message: str, code: int) -> int:
    print(f"regkit: {' '.join(message.split())}", file=sys.stderr)
    return code


def _is_out_of_memory(error: BaseException) -> bool:
    """torch raises RuntimeError when an allocation fails: a plain one on the CPU, OutOfMemoryError on a GPU."""
    told = str(error).lower()
    return (
        isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in told or "out of memory" in told
    )


if __name__ == "__main__":
    sys.exit(main())
