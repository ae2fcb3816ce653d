"""Benchmarks of the ops beside their peers. `python -m tests.benchmarks` (make bench) runs them; cases.py is the registry."""
