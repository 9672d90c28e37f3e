"""Engines execute the networks of encoders: torch, compiled torch, ONNX Runtime, OpenVINO.

An encoder is weights, preprocessing and pooling. An engine computes the same embeddings with another library, up to the
rounding that the encoder's precision class allows. Each engine is one module with one registered class.
"""

from mmfeat.encoders.engines.engine import Choice, Engine, engine_class, engines

__all__ = ["Choice", "Engine", "engine_class", "engines"]
