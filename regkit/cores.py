"""How many cores there are for this process. Needs nothing else, so that it can be asked before torch is loaded."""

import os


def usable_cores() -> int:
    """The cores that this process may use: fewer than the machine's where a cluster's job or taskset holds it to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
