"""The job file: what it may say, what is wrong with one, and what becomes of it."""

from nas.config.init import (
    AnchorsInit,
    BaselineInit,
    CheckpointInit,
    GgufInit,
    HfInit,
    TimmInit,
    TrainedAnchor,
)
from nas.config.job import JobConfig, checked_config, load_config, merged
from nas.config.latency import REMOTE, STORED, DeviceConfig, PredictorConfig
from nas.config.sections import (
    DataConfig,
    ExecutionConfig,
    FinalistsConfig,
    FinalistTraining,
    NotifyConfig,
    SearchConfig,
    StopConfig,
    StoreConfig,
    SupernetConfig,
    SupernetEntry,
    TrainConfig,
)

__all__ = [
    "REMOTE",
    "STORED",
    "AnchorsInit",
    "BaselineInit",
    "CheckpointInit",
    "DataConfig",
    "DeviceConfig",
    "ExecutionConfig",
    "FinalistTraining",
    "FinalistsConfig",
    "GgufInit",
    "HfInit",
    "JobConfig",
    "NotifyConfig",
    "PredictorConfig",
    "SearchConfig",
    "StopConfig",
    "StoreConfig",
    "SupernetConfig",
    "SupernetEntry",
    "TimmInit",
    "TrainConfig",
    "TrainedAnchor",
    "checked_config",
    "load_config",
    "merged",
]
