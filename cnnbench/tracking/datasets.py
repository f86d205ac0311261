"""The data set that a run was trained on, as MLflow's pages show one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from mlflow.entities import Dataset, DatasetInput, InputTag

if TYPE_CHECKING:
    from cnnbench.environment import DatasetInfo

MAX_DIGEST_CHARACTERS = 36


def dataset_input(info: DatasetInfo) -> DatasetInput:
    """Return what a run of that data set is logged with."""
    shape = {
        "num_rows": info.num_train + info.num_val + info.num_test,
        "num_train": info.num_train,
        "num_val": info.num_val,
        "num_test": info.num_test,
        "num_classes": info.num_classes,
        "image_shape": [info.num_channels, info.image_size, info.image_size],
    }
    dataset = Dataset(
        name=info.name,
        digest=info.digest[:MAX_DIGEST_CHARACTERS],
        source_type="external",
        source=msgspec.json.encode({"uri": info.source}).decode(),
        profile=msgspec.json.encode(shape).decode(),
    )
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", "training")])
