"""Benchmarks of the ops beside their peers. `python -m tests.benchmarks` (make bench) runs them; cases/ is the registry."""
