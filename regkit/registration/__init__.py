"""The pipeline: `register` aligns two scans, without training or with a trained network; `PRESETS` says how."""

from regkit.registration.config import PRESETS, AffineStage, Config, EmbeddingStage, Intensity, ModelStage, RefineStage
from regkit.registration.pipeline import register
from regkit.registration.result import Record, Result

__all__ = ["PRESETS", "AffineStage", "Config", "EmbeddingStage", "Intensity", "ModelStage", "Record", "RefineStage", "Result", "register"]
