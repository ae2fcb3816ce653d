"""A configuration by every way that the pipeline has: what tests of the whole of it go through."""

from dataclasses import replace

from regkit.registration.config import Config, EmbeddingStage


def variants(config: Config) -> dict[str, Config]:
    return {
        "generic": config,
        "thin-plate spline": replace(config, embedding=EmbeddingStage(densify="tps")),
        "diffeomorphic": replace(config, embedding=EmbeddingStage(enabled=False), refine=replace(config.refine, diffeomorphic=True)),
        "mind": replace(config, refine=replace(config.refine, similarity="mind")),
    }
