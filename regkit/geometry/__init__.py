"""Images, grids, transforms and landmarks in the world, and the files they live in.

World coordinates are RAS mm in 3-D and ITK's physical coordinates in 2-D.
A transform maps points of the fixed space to points of the moving space.
"""

from regkit.geometry.displacement import as_displacement_field, total_displacement
from regkit.geometry.grid import Grid
from regkit.geometry.image import Image, as_image
from regkit.geometry.itk import grid_from_sitk, image_from_sitk, image_to_sitk
from regkit.geometry.learn2reg import read_learn2reg, write_learn2reg
from regkit.geometry.points import Points, read_points, write_points
from regkit.geometry.read import check_mask, check_scan, read_image
from regkit.geometry.resample import resample, resample_volume, smooth_resample, smooth_resample_volume
from regkit.geometry.transform_files import load_transform, save_transform, transform_from_sitk, transform_to_sitk
from regkit.geometry.transforms import Affine, Composite, DisplacementField, Transform
from regkit.geometry.write import atomic_path, write_image

__all__ = [
    "Affine",
    "Composite",
    "DisplacementField",
    "Grid",
    "Image",
    "Points",
    "Transform",
    "as_displacement_field",
    "as_image",
    "atomic_path",
    "check_mask",
    "check_scan",
    "grid_from_sitk",
    "image_from_sitk",
    "image_to_sitk",
    "load_transform",
    "read_image",
    "read_learn2reg",
    "read_points",
    "resample",
    "resample_volume",
    "save_transform",
    "smooth_resample",
    "smooth_resample_volume",
    "total_displacement",
    "transform_from_sitk",
    "transform_to_sitk",
    "write_image",
    "write_learn2reg",
    "write_points",
]
