"""An open store: where sweeps are logged, read back, and looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow.exceptions import MlflowException

from cnnbench import clock, views
from cnnbench.errors import StoreError
from cnnbench.tracking import experiments
from cnnbench.tracking.encoding import milliseconds
from cnnbench.tracking.reading import read_sweep
from cnnbench.tracking.refusals import refusals
from cnnbench.tracking.sweep_log import SweepLog
from cnnbench.tracking.ui import ui_on, ui_version

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import mlflow
    import sqlalchemy

    from cnnbench.environment import DatasetInfo, Environment
    from cnnbench.record import Record
    from cnnbench.tracking.ui import Ui


@dataclass(frozen=True, kw_only=True)
class Tracker:
    """An open store. Made by `open_store`; nothing runs in the background.

    `artifacts` and `engine` are those of a database; a server has its own.
    """

    uri: str
    client: mlflow.MlflowClient
    artifacts: Path | None = None
    engine: sqlalchemy.Engine | None = None

    def sweep(
        self,
        sweep_id: str,
        *,
        profile: str,
        environment: Environment,
        dataset: DatasetInfo | None = None,
        study: str | None = None,
        artifacts_dir: Path | None = None,
    ) -> SweepLog:
        """Return where the cells of one sweep are logged, in the experiment `cnnbench/<profile>`.

        `artifacts_dir` is where cells left files of their own, in a folder named by the cell's hash.

        Raises:
            StoreError: the store refuses.
        """
        with refusals(self.uri):
            experiment_id = experiments.made(self.client, profile, self.artifacts)
        return SweepLog(
            tracker=self,
            experiment_id=experiment_id,
            sweep_id=sweep_id,
            environment=environment,
            dataset=dataset,
            study=study,
            artifacts_dir=artifacts_dir,
        )

    def ui(self, *, port: int, profile: str | None = None, architecture: str | None = None) -> Ui:
        """Return how to see the runs of `profile`, by default of the latest sweep, on 127.0.0.1.

        `architecture` opens the comparison of its cells alone.

        Raises:
            StoreError: the store refuses, or holds no cell of that architecture.
        """
        with refusals(self.uri):
            experiment_id = experiments.there(self.client, profile)
            key = self._view_key(experiment_id, architecture)
        return ui_on(self.uri, self.artifacts, port=port, experiment_id=experiment_id, view_key=key)

    def read(self, sweep_id: str | None = None) -> tuple[list[Record], bytes]:
        """Return the records of one sweep, by default the latest, and its environment as JSON.

        Raises:
            StoreError: there is no such sweep, the store refuses, or a record cannot be read.
        """
        with refusals(self.uri):
            return read_sweep(self.client, self.uri, sweep_id)

    def close(self) -> None:
        """Close the connections; a SQLite store is one file again."""
        if self.engine is not None:
            self.engine.dispose()

    def _view_key(self, experiment_id: str | None, architecture: str | None) -> str | None:
        """Return the key of the view to open, once it is there; `None` where only the list works."""
        view = views.one_architecture(architecture) if architecture else views.all_settings()
        if architecture and not (view and experiment_id and self._holds(experiment_id, view)):
            msg = f"the latest sweep's experiment has no cell of the architecture {architecture!r}."
            raise StoreError(msg)
        if view is None or experiment_id is None or not self._ui_reads_views():
            return None
        try:
            self.prepare_views(experiment_id, views.views([architecture] if architecture else []))
        except MlflowException:  # such as: this user may read here and no more
            return None
        return view.key

    def _holds(self, experiment_id: str, view: views.View) -> bool:
        condition = view.state["searchFilter"]
        return bool(self.client.search_runs([experiment_id], condition, max_results=1))

    def _ui_reads_views(self) -> bool:
        return views.is_known(ui_version(self.uri, self.artifacts))

    def prepare_views(self, experiment_id: str, prepared: Iterable[views.View]) -> None:
        """Save those of the `prepared` views that the experiment has not got."""
        tags = self.client.get_experiment(experiment_id).tags
        now = milliseconds(clock.now())
        for view in prepared:
            if not view.is_saved_as(tags.get(view.tag)):
                self.client.set_experiment_tag(experiment_id, view.tag, view.envelope(now))
