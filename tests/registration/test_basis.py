"""PCA of similarity maps over many pairs, in blocks; its file; the embedding with it."""

from dataclasses import replace

import pytest
import torch

from regkit.errors import InputError, UsageError
from regkit.registration.basis import Basis, StreamedPCA, load_basis, search_of
from regkit.registration.config import EmbeddingStage
from regkit.registration.embedding import decode, pca


def rows(count: int, length: int, rank: int, seed: int) -> torch.Tensor:
    """Of a few strong directions, falling off, and noise; not centred."""
    random = torch.Generator().manual_seed(seed)
    directions = torch.randn(rank, length, generator=torch.Generator().manual_seed(99)) * torch.linspace(3, 1, rank)[:, None]
    return 5 + torch.randn(count, rank, generator=random) @ directions + 0.05 * torch.randn(count, length, generator=random)


def test_blocks_give_the_pca_of_all_rows():
    blocks = [rows(n, 60, 6, seed) for seed, n in enumerate((20, 7, 31, 1))]
    streamed = StreamedPCA(12)
    for block in blocks:
        streamed.add(block)
    together = torch.cat(blocks).double()
    mean, basis, share = streamed.result(6)
    assert torch.allclose(mean.double(), together.mean(0), atol=1e-5)
    values, directions = torch.linalg.svd(together - together.mean(0))[1:]
    assert ((basis.T.double() @ directions[:6].T).abs().diagonal() > 0.999).all()
    assert share == pytest.approx(float(values[:6].square().sum() / values.square().sum()), abs=1e-3)
    assert torch.allclose(basis.T @ basis, torch.eye(6), atol=1e-4)


def test_too_few_rows():
    streamed = StreamedPCA(8)
    with pytest.raises(UsageError, match="0 are there"):
        streamed.result(1)
    streamed.add(rows(4, 60, 6, 0))
    streamed.result(3)
    with pytest.raises(UsageError, match="4 directions of 4 maps were asked for, but 3"):
        streamed.result(4)


def test_file(tmp_path):
    stage = replace(EmbeddingStage(search_radius=1, dimensions=3), basis=str(tmp_path / "basis.safetensors"))
    cost = rows(40, 27, 6, 1)
    mean, directions = pca(cost, 6)
    Basis(mean, directions.flip(1), search_of(stage, 3), "made rows").save(stage.basis)
    again = load_basis(stage.basis)
    assert again.about == "made rows" and torch.equal(again.mean, mean)
    assert again.of(stage, 3)[1].shape == (27, 3)
    with pytest.raises(UsageError, match=r"fitted on maps with stride 2 \(asked for: 1\)"):
        again.of(replace(stage, stride=1), 3)
    with pytest.raises(UsageError, match="has 6 dimensions, not 7"):
        again.of(replace(stage, dimensions=7), 3)
    (tmp_path / "other").write_text("no")
    with pytest.raises(InputError, match="not a basis"):
        load_basis(tmp_path / "other")


def test_decoding_with_a_file_and_with_no_embedding(tmp_path):
    """All of a pair's directions in a file decode as no embedding does; without diffusion that is each cost volume's own soft-min."""
    keypoints = torch.rand(40, 3, generator=torch.Generator().manual_seed(3)) * 20
    cost = rows(40, 27, 27, 1).abs() / 10
    stage = EmbeddingStage(search_radius=1, dimensions=27, sharpness=2.0, basis=str(tmp_path / "basis.safetensors"))
    mean, directions = pca(cost, 27)
    Basis(mean, directions, search_of(stage, 3)).save(stage.basis)
    by_file, without = (decode(cost, keypoints, s, 3) for s in (stage, replace(stage, dimensions=0)))
    assert torch.allclose(by_file, without, atol=5e-3)  # directions are stored in halves
    alone = decode(cost, keypoints, replace(stage, dimensions=0, diffusion=0.0), 3)
    assert not torch.allclose(alone, without, atol=5e-2)
