"""The training-free pipeline: `register` aligns two scans, `PRESETS` says how."""

from regkit.registration.config import PRESETS, AffineStage, Config, EmbeddingStage, Intensity, RefineStage
from regkit.registration.pipeline import register
from regkit.registration.result import Record, Result

__all__ = ["PRESETS", "AffineStage", "Config", "EmbeddingStage", "Intensity", "Record", "RefineStage", "Result", "register"]
