"""The peers: what people use where regkit is not at hand.

The usual formulas in plain torch, one file a family, written as they are commonly written, and adapters of packages that are called where
they are installed (MONAI). They take and return tensors as regkit does: displacements (B, D, *spatial) in voxels.
"""
