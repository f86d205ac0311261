"""Experiments: one a profile, called `cnnbench/<profile>`, made on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from cnnbench import notes

if TYPE_CHECKING:
    from pathlib import Path

    import mlflow

EXPERIMENT_KIND_TAG = "mlflow.experimentKind"
EXPERIMENT_KIND = "custom_model_development"


def there(client: mlflow.MlflowClient, profile: str | None) -> str | None:
    """Return the id of the profile's experiment, by default that of the latest sweep, if there is one."""
    if profile is not None:
        found = client.get_experiment_by_name(_name(profile))
        return None if found is None else str(found.experiment_id)
    ids = all_ids(client)
    if not ids:
        return None
    latest = client.search_runs(
        ids, "tags.kind = 'sweep'", max_results=1, order_by=["attributes.end_time DESC"]
    )
    return str(latest[0].info.experiment_id) if latest else ids[0]


def all_ids(client: mlflow.MlflowClient) -> list[str]:
    """Return the ids of the experiments of all profiles."""
    ours = client.search_experiments(filter_string="name LIKE 'cnnbench/%'")
    return [str(experiment.experiment_id) for experiment in ours]


def made(client: mlflow.MlflowClient, profile: str, artifacts: Path | None) -> str:
    """Return the id of the profile's experiment: made, or brought back if a user deleted it."""
    name = _name(profile)
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(
                client.create_experiment(
                    name,
                    artifact_location=_artifact_location(profile, artifacts),
                    tags={
                        EXPERIMENT_KIND_TAG: EXPERIMENT_KIND,
                        notes.NOTE_TAG: notes.experiment_note(profile),
                    },
                )
            )
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:  # otherwise another sweep has just made it
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if EXPERIMENT_KIND_TAG not in found.tags:
        client.set_experiment_tag(found.experiment_id, EXPERIMENT_KIND_TAG, EXPERIMENT_KIND)
    return str(found.experiment_id)


def _artifact_location(profile: str, artifacts: Path | None) -> str | None:
    if artifacts is None:
        return None
    folder = "".join(c if c.isalnum() or c in "-_" else "-" for c in profile)
    return (artifacts / folder).as_uri()


def _name(profile: str) -> str:
    return f"cnnbench/{profile}"
