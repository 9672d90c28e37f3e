"""The feature store: keys, segments, commits, and which rows are missing or stale and why. Imports neither torch nor timm."""

from mmfeat.store.feature_store import FeatureStore
from mmfeat.store.features import EncoderFeatures
from mmfeat.store.keys import EncoderSpec
from mmfeat.store.rows import Found, MappedRows
from mmfeat.store.storable import UnstorableRow

__all__ = ["EncoderFeatures", "EncoderSpec", "FeatureStore", "Found", "MappedRows", "UnstorableRow"]
