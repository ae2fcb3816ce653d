"""From two scans to transforms that any ITK tool can use: the whole pipeline on made pairs of every kind."""

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest

from regkit.geometry import Affine, Composite, Grid, Image, as_image, image_to_sitk, load_transform, read_image, write_image
from regkit.registration import PRESETS, Config, Result, register
from tests.registration.anatomy import Anatomy, Pair, affine_about, grid_at, make_pair, shifted, wave


@pytest.fixture(scope="module")
def oblique(oblique_pair, tmp_path_factory) -> tuple[Pair, Result, object]:
    """(pair, result, OUT directory)."""
    result = register(oblique_pair.fixed, oblique_pair.moving)
    return oblique_pair, result, result.save(tmp_path_factory.mktemp("oblique") / "out")


def voxels(image) -> np.ndarray:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(image).T


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_an_oblique_anisotropic_pair_off_the_origin(oblique):
    pair, result, _ = oblique
    assert pair.start > 6 and pair.error(result.transform) < 0.9
    assert result.moved.grid == pair.fixed.grid and result.moved.data.dtype == np.float32
    assert np.corrcoef(result.moved.data.ravel(), pair.fixed.data.ravel())[0, 1] > 0.97


def test_simpleitk_makes_the_same_moved_scan(oblique):
    import SimpleITK

    pair, _, out = oblique
    transform = SimpleITK.ReadTransform(str(out / "xfm.h5"))
    theirs = SimpleITK.Resample(image_to_sitk(pair.moving), image_to_sitk(pair.fixed), transform, SimpleITK.sitkLinear, 0.0)
    assert distance(read_image(out / "moved.nii.gz").data, voxels(theirs)) < 1e-3
    ours = SimpleITK.ReadImage(str(out / "moved.nii.gz"))  # ... and lies where theirs lies
    np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(ours.GetDirection(), theirs.GetDirection(), atol=1e-5)


def test_the_inverse_undoes_it_in_simpleitk(oblique):
    import SimpleITK

    pair, _, out = oblique
    there, back = (SimpleITK.ReadTransform(str(out / name)) for name in ("xfm.h5", "xfm_inverse.h5"))
    points = pair.points() * [-1, -1, 1]  # LPS
    error = [np.linalg.norm(np.subtract(back.TransformPoint(there.TransformPoint(p.tolist())), p)) for p in points]
    assert np.mean(error) < 0.1 and np.max(error) < 1.0
    moved = read_image(out / "moved.nii.gz")
    again = SimpleITK.Resample(image_to_sitk(moved), image_to_sitk(pair.moving), back, SimpleITK.sitkLinear, 0.0)
    inside = (pair.moving.data > 200) & (voxels(again) > 0)  # what the fixed scan shows of the body
    assert inside.mean() > 0.2 and distance(voxels(again)[inside], pair.moving.data[inside]) < 0.1  # two interpolations blur


def test_result_carries_images_and_points(oblique, tmp_path):
    pair, result, _ = oblique
    points = pair.points()
    there = result.map_points(points, from_="fixed", to="moving")
    assert np.linalg.norm(there - pair.truth.apply(points), axis=1).mean() < 0.9
    assert np.linalg.norm(result.map_points(there) - points, axis=1).mean() < 0.1
    assert result.map_points(points, from_="fixed", to="fixed") is points
    labels = Image((pair.moving.data > 300).astype(np.int16) * 1002, pair.moving.grid)
    carried = result.warp(labels)
    assert carried.data.dtype == np.int16 and set(np.unique(carried.data)) == {0, 1002} and carried.grid == pair.fixed.grid
    np.testing.assert_array_equal(result.warp(labels.data).data, carried.data)
    back = result.warp(result.moved, to="moving")
    assert back.grid == pair.moving.grid and back.data.dtype == np.float32
    found = result.evaluate(pair.fixed.data > 300, labels.data > 0, points, pair.truth.apply(points))
    assert found["labels"][1]["dice"] > found["labels"][1]["dice_before"] and found["tre_mm"]["after"]["mean"] < 0.9
    assert found["folds"] == 0 and 0 < found["sdlogj_learn2reg"] < found["sdlogj"]


def test_the_record_tells_everything(oblique):
    pair, result, _ = oblique
    record = result.record
    stages = {"read", "prepare", "affine", "embedding", "refine", "invert", "measure"}
    assert set(record.seconds) == stages | {"total"}
    assert record.seconds["total"] >= sum(record.seconds[stage] for stage in stages)
    assert (
        record.peak_memory_mb > 50
        and record.threads >= 1
        and record.device == "cpu"
        and set(record.versions) > {"regkit", "torch", "python"}
    )
    metrics = record.metrics
    assert metrics["similarity_before"] < metrics["similarity_affine"] < metrics["similarity_after"] <= 1
    assert metrics["jacobian"]["folds"] == 0 and 0 < metrics["jacobian"]["det_min"] < 1 < metrics["jacobian"]["det_max"]
    assert metrics["inverse_consistency_mm"]["mean"] < 0.15
    assert metrics["displacement_mm"]["p5"] < metrics["displacement_mm"]["p50"] < metrics["displacement_mm"]["max"]
    assert any(note.startswith("start: ") for note in record.notes) and not record.warnings
    assert all(len(curve) > 1 for curve in record.curves.values())


def test_jacobian_is_what_the_report_draws(oblique):
    from regkit.report import scene

    _, result, _ = oblique
    determinant = scene.determinant(result)
    assert result.record.metrics["jacobian"]["det_min"] == pytest.approx(float(determinant.min()), rel=1e-5)
    assert result.record.metrics["jacobian"]["sdlogj"] == pytest.approx(float(np.log(determinant).std()), rel=1e-3)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_seed_same_bits(pair2d, oblique_pair, threads, tmp_path):
    for pair, config in ((pair2d, PRESETS["xray"]), (oblique_pair, Config())):
        affine = replace(config.affine, iterations=(5,) * len(config.affine.iterations))
        config = replace(config, affine=affine, refine=replace(config.refine, iterations=(5,) * len(config.refine.iterations)))
        results = [register(pair.fixed, pair.moving, config=config, threads=threads, seed=4) for _ in range(2)]
        np.testing.assert_array_equal(results[0].moved.data, results[1].moved.data)
        for name in ("transform", "inverse"):
            for part, other in zip(getattr(results[0], name).parts, getattr(results[1], name).parts):
                key = "matrix" if isinstance(part, Affine) else "vectors"
                np.testing.assert_array_equal(getattr(part, key), getattr(other, key))
    files = [result.save(tmp_path / str(n)) for n, result in enumerate(results)]
    assert (files[0] / "moved.nii.gz").read_bytes() == (files[1] / "moved.nii.gz").read_bytes()


def turned(image: Image, order: tuple[int, int, int], flips: tuple[int, int, int]) -> Image:
    """The same scan, stored with other axes."""
    affine = image.grid.affine.copy()
    data = image.data.transpose(order)
    affine[:, :3] = affine[:, order]
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (data.shape[axis] - 1)
            affine[:3, axis] *= -1
            data = np.flip(data, axis)
    return Image(np.ascontiguousarray(data), Grid(data.shape, affine), image.name)


@pytest.mark.parametrize("preset, ways", [("generic", [(13, 0), (0, 38), (29, 18)]), ("multimodal", [(29, 18)])])
def test_orientation_of_the_files_plays_no_part(oblique, preset, ways):
    pair, *_ = oblique
    orders = list(product(permutations(range(3)), product((0, 1), repeat=3)))
    points = pair.points()
    wanted = register(pair.fixed, pair.moving, preset=preset).transform.apply(points)
    for fixed_way, moving_way in ways:
        found = register(turned(pair.fixed, *orders[fixed_way]), turned(pair.moving, *orders[moving_way]), preset=preset)
        assert np.linalg.norm(found.transform.apply(points) - wanted, axis=1).mean() < 0.25
        assert pair.error(found.transform) < 1.0


def test_scans_apart_in_space_are_brought_together(oblique):
    pair, result, _ = oblique
    far = np.eye(4)
    far[:3, 3] = 800, 0, -900
    moving = shifted(pair.moving, far)
    found = register(pair.fixed, moving)
    assert any("do not overlap" in note for note in found.record.notes)
    assert Pair(pair.fixed, moving, Affine(far) @ pair.truth).error(found.transform) < 0.9


@pytest.mark.parametrize("scale", [0.01, 50.0])
def test_microns_and_metres(scale):
    """0.02 mm voxels, and 100 mm ones: lengths are in voxels wherever they can be."""
    grid = grid_at((36, 32, 30), 2.5 * scale, (10, 5, -20))
    truth = Composite([affine_about((4, -5, 3), 1.0, np.array([4.0, -3, 5]) * scale), wave(grid, 3.0 * scale)])
    pair = make_pair(grid, grid_at((34, 36, 28), 2.6 * scale), truth, Anatomy(size=35 * scale))
    found = register(pair.fixed, pair.moving)
    assert pair.start > 5 * scale and pair.error(found.transform) < 0.9 * scale
    assert found.record.metrics["jacobian"]["folds"] == 0


SOLID, FLAT = ("generic", "multimodal", "ct-lung"), ("generic", "multimodal", "xray")


@pytest.mark.parametrize(
    ("shape", "presets"),
    [((16, 16, 16), SOLID), ((40, 36, 6), SOLID[:1]), ((9, 30, 31), SOLID[1:2]), ((4, 4, 4), SOLID), ((20, 17), FLAT), ((4, 60), FLAT)],
)
def test_tiny_and_thin_scans(shape, presets):
    dims = len(shape)
    grid, other = grid_at(shape, 5.0), grid_at([n + 1 for n in shape], 4.9)
    pair = make_pair(grid, other, affine_about((2,) * (3 if dims == 3 else 1), 1.0, [2.0] * dims), Anatomy(dims, lumps=30, size=32))
    for preset in presets:
        found = register(pair.fixed, pair.moving, preset=preset)
        assert np.isfinite(found.moved.data).all() and found.record.metrics["jacobian"]["folds"] == 0
        if min(shape) >= 16 and preset == "generic":
            assert pair.error(found.transform) < pair.start


@pytest.mark.parametrize(
    ("dtype", "background", "contrast"), [(np.uint8, 0, 100), (np.int16, -1000, 500), (np.uint16, 200, 9000), (np.float64, -1e-3, 1e-3)]
)
def test_any_voxel_type(dtype, background, contrast):
    grid = grid_at((30, 28, 26), 3.2)
    anatomy = Anatomy(background=background, contrast=contrast)
    pair = make_pair(grid, grid_at((32, 26, 28), 3.1), affine_about((4, -3, 5), 1.0, (5.0, 4.0, -6.0)), anatomy, dtype=dtype)
    found = register(pair.fixed, pair.moving)
    assert pair.fixed.data.dtype == dtype and found.moved.data.dtype == np.float32  # a grey scan, not a label map, whatever its type
    assert pair.error(found.transform) < 1.0


def test_masks_keep_strangers_out():
    """One half of the moving scan shows someone else; the masks name the half that counts."""
    grid = grid_at((40, 34, 30), 2.6)
    pair = make_pair(grid, grid_at((38, 36, 32), 2.6), Composite([affine_about((3, 2, -4), 1.0, (2.0, -3.0, 3.0)), wave(grid, 3.0)]))
    other = Anatomy(seed=99).scan(pair.moving.grid).data
    half = np.zeros(pair.moving.grid.shape, bool)
    half[:20] = True
    moving = Image(np.where(half, pair.moving.data, other), pair.moving.grid)
    mask = Image(half.astype(np.uint8), pair.moving.grid)
    points = pair.points(2000)
    points = points[points[:, 0] < -8]
    errors = []
    for options in ({}, {"moving_mask": mask}):
        found = register(pair.fixed, moving, **options)
        errors.append(np.linalg.norm(found.transform.apply(points) - pair.truth.apply(points), axis=1).mean())
    assert errors[1] < 0.9 and errors[1] < errors[0] + 0.05


def test_a_mask_on_a_grid_of_its_own(oblique_pair):
    mask = Image(
        (Anatomy().scan(grid_at((30, 26, 28), 3.4), noise=0).data > 150).astype(np.uint8),
        grid_at((30, 26, 28), 3.4, centre=(60, -140, 220)),
    )
    found = register(oblique_pair.fixed, oblique_pair.moving, moving_mask=mask, fixed_mask=mask)
    assert oblique_pair.error(found.transform) < 1.0 and found.fixed_mask.grid == mask.grid


def test_arrays_in_memory(oblique):
    """(array, affine), nibabel and SimpleITK images are the same scan, up to the float32 of headers, and give one result."""
    import nibabel

    pair, result, _ = oblique
    ways = (lambda image: (image.data, image.grid.affine), lambda image: nibabel.Nifti1Image(image.data, image.grid.affine), image_to_sitk)
    for source in ways:
        image = as_image(source(pair.fixed))
        np.testing.assert_array_equal(image.data, pair.fixed.data)
        np.testing.assert_allclose(image.grid.affine, pair.fixed.grid.affine, atol=1e-4)
    found = register(ways[0](pair.fixed), ways[2](pair.moving))
    apart = found.transform.apply(pair.points()) - result.transform.apply(pair.points())
    assert np.linalg.norm(apart, axis=1).mean() < 0.1
    bare = register(pair.fixed.data, pair.fixed.data[1:])  # 1 mm voxels at the origin
    np.testing.assert_allclose(bare.transform.apply(np.array([[20.0, 19, 13]])), [[19, 19, 13]], atol=0.3)


def test_the_inputs_are_not_changed(oblique_pair):
    fixed, moving = oblique_pair.fixed.data.copy(), oblique_pair.moving.data.copy()
    fixed.setflags(write=False)
    register((fixed, oblique_pair.fixed.grid.affine), (moving, oblique_pair.moving.grid.affine), preset="mr-brain")
    np.testing.assert_array_equal(moving, oblique_pair.moving.data)


@pytest.mark.parametrize("preset", ["generic", "xray", "multimodal"])
def test_pictures_from_file_to_file(pair2d, tmp_path, preset):
    import SimpleITK

    for name in ("fixed", "moving"):
        write_image(getattr(pair2d, name), tmp_path / f"{name}.png")
    found = register(tmp_path / "fixed.png", tmp_path / "moving.png", preset=preset)
    assert pair2d.start > 4 and pair2d.error(found.transform) < 0.8
    out = found.save(tmp_path / "out")
    theirs = SimpleITK.Resample(
        SimpleITK.Cast(SimpleITK.ReadImage(str(tmp_path / "moving.png")), SimpleITK.sitkFloat32),
        SimpleITK.ReadImage(str(tmp_path / "fixed.png")),
        SimpleITK.ReadTransform(str(out / "xfm.h5")),
        SimpleITK.sitkLinear,
        0.0,
    )
    assert distance(read_image(out / "moved.tif").data, voxels(theirs)) < 1e-3
    points = pair2d.points()
    back = load_transform(out / "xfm_inverse.h5").apply(load_transform(out / "xfm.h5").apply(points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.2
