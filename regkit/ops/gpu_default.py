"""The faster backend of each op on GPUs, as measured; ops that are not here take the first of backends.PREFERENCE that they have.

Written by `python -m tests.benchmarks --defaults FILE` from a results file in which several backends were timed.
"""

MEASURED = ""  # the results file behind the table
FASTER: dict[str, str] = {}
