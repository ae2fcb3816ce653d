"""The peers: what people use where regkit is not at hand.

The usual formulas in plain torch, one file a family, written as they are commonly written, and adapters of packages that are called where
they are installed (MONAI) or are compiled from a checkout that is given by its path (source.py). They take and return tensors as regkit
does: displacements (B, D, *spatial) in voxels.
"""
