"""The few lines that end a registration on the command line."""

from typing import Any

from regkit.report.tables import metric, number, percent, total_seconds


def summary(result: Any) -> list[str]:
    """Time, similarity, folds and inverse consistency of a Result, then its warnings."""
    record = result.record
    how = f"{record.device}, {record.threads} threads, peak {record.peak_memory_mb:.0f} MB"
    if record.peak_gpu_memory_mb is not None:
        how += f" and {record.peak_gpu_memory_mb:.0f} MB of the GPU"
    lines = [f"registered in {total_seconds(record.seconds):.1f} s ({how})"]
    found = []
    before, after = metric(record.metrics, "similarity_before"), metric(record.metrics, "similarity_after")
    if before is not None and after is not None:
        found.append(f"similarity {number(before, 3)} before, {number(after, 3)} after")
    folds, inverse = metric(record.metrics, "folds"), metric(record.metrics, "inverse_consistency_mm.mean")
    if folds is not None:
        found.append(f"folded voxels {percent(folds)}")
    if inverse is not None:
        found.append(f"inverse consistency {inverse:.2g} mm")
    if found:
        lines.append(", ".join(found))
    return lines + [f"warning: {warning}" for warning in record.warnings]
