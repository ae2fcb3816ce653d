"""Triton kernels, one file per op; installed as regkit.kernels."""
