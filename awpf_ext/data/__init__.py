"""Data sets, the feature store and task streams."""

import awpf_ext.data.domains  # noqa: F401  (registers its data sets)
from awpf_ext.data.datasets import DATASETS, dataset, load_dataset
from awpf_ext.data.extract import ExtractProgress, extract_features
from awpf_ext.data.features import FeatureSet, read_features
from awpf_ext.data.images import ImageDataset
from awpf_ext.data.limits import Limits, limited
from awpf_ext.data.order import class_order
from awpf_ext.data.prepared_images import PreparedImages
from awpf_ext.data.store import FeatureStore
from awpf_ext.data.stream import Task, TaskStream, task_stream

__all__ = [
    "DATASETS",
    "ExtractProgress",
    "FeatureSet",
    "FeatureStore",
    "ImageDataset",
    "Limits",
    "PreparedImages",
    "Task",
    "TaskStream",
    "class_order",
    "dataset",
    "extract_features",
    "limited",
    "load_dataset",
    "read_features",
    "task_stream",
]
