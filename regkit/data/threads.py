"""Reading many cases at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from regkit.cores import usable_cores
from regkit.registration.progress import Progress

MOST = 8  # threads, unless told otherwise: disks are not faster with more

A, B = TypeVar("A"), TypeVar("B")


def each(work: Callable[[A], B], items: Sequence[A], progress: Progress, stage: str, threads: int | None = None) -> list[B]:
    """`work(item)` of every item, several at once, in the order of the items. The first error ends it: what has not begun is not done."""
    with ThreadPoolExecutor(threads or min(MOST, usable_cores())) as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            for n, job in enumerate(as_completed(jobs), start=1):
                job.result()
                progress(stage, n / len(jobs), f"{n} of {len(jobs)}")
            return [job.result() for job in jobs]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
