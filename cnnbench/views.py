"""The prepared pages of the MLflow UI: which runs, columns and charts each shows.

The UI keeps a saved view as an experiment's tag and opens it by its key. It documents neither, so
what is written here was read from the UI of the versions in `KNOWN_VERSIONS` and is tested in a
browser; elsewhere the plain list of runs is shown. Only keys that begin with `cnnbench` are ours.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnbench.digest import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KNOWN_VERSIONS = ("3.17",)
TAG_PREFIX = "mlflow.sharedViewState."
COLOUR_TAG = "mlflow.runColor"
# Okabe and Ito's, as in the report.
PRECISION_COLOURS = {"fp32": "#0072B2", "tf32": "#CC79A7", "bf16": "#D55E00", "fp16": "#009E73"}

# More would bury those that users save themselves; the others are made when they are asked for.
MAX_ARCHITECTURES = 20

SPEED, MEMORY = "images_per_second", "peak_allocated_mib"
ACCURACY, CURVE, SECONDS = "best_val_accuracy", "val/accuracy", "train/seconds"

_AXES = ("architecture", "precision", "batch_size", "checkpointing", "memory_format", "compile")
_CELLS = "tags.kind = 'cell'"
_COLUMNS = (
    *(f"params.`{name}`" for name in _AXES),
    f"metrics.`{SPEED}`",
    f"metrics.`{MEMORY}`",
    "metrics.`step_ms_median`",
    f"metrics.`{ACCURACY}`",
    "metrics.`test_accuracy`",
    "metrics.`time_to_accuracy_seconds`",
    "tags.`status`",
    "tags.`validity`",
    "attributes.`Dataset`",
    "attributes.`Description`",
)
# The UI draws a chart for every metric that has none yet: into these sections, which stay folded.
_GENERATED = ("Model metrics", "System metrics", "train", "val")
_WIDE, _HALF = 1, 2
_HEIGHT = 400


@dataclass(frozen=True, kw_only=True)
class View:
    """One prepared page: the key that opens it, its name in the list of saved views, its state."""

    key: str
    name: str
    state: dict[str, Any]

    @property
    def tag(self) -> str:
        """Return the name of the experiment's tag that holds it."""
        return f"{TAG_PREFIX}{self.key}"

    def envelope(self, milliseconds: int) -> str:
        """Return the tag's value, as saved at that time."""
        state = json.dumps(self.state, separators=(",", ":"))
        return json.dumps({"name": self.name, "createdAt": milliseconds, "state": state})

    def is_saved_as(self, value: str | None) -> bool:
        """Return whether a tag's `value` holds this view already, whenever it was saved."""
        try:
            saved = json.loads(value or "")
            return bool(saved["name"] == self.name and json.loads(saved["state"]) == self.state)
        except (ValueError, TypeError, KeyError):
            return False


def all_settings() -> View:
    """Return the view of every cell: speed, memory, accuracy and the axes side by side."""
    return View(
        key="cnnbench", name="cnnbench: all settings", state=_state(_CELLS, _sections(_AXES[:4]))
    )


def best_of_groups() -> View:
    """Return the view of the best that each architecture reached in each precision."""
    sections = [("Highest of each group", _HALF, [_bar(SPEED), _bar(ACCURACY)])]
    keys = [{"mode": "param", "groupByData": name} for name in ("architecture", "precision")]
    state = _state(_CELLS, sections)
    state["groupBy"] = {"aggregateFunction": "max", "groupByKeys": keys}
    return View(
        key="cnnbench-best", name="cnnbench: best per architecture and precision", state=state
    )


def one_architecture(architecture: str) -> View | None:
    """Return the view of one architecture's cells; `None` where MLflow's search cannot name it."""
    quote = "'" if "'" not in architecture else '"'
    if quote in architecture:
        return None
    condition = f"{_CELLS} and params.architecture = {quote}{architecture}{quote}"
    return View(
        key=f"cnnbench-{digest(architecture, length=12)}",
        name=f"cnnbench: {architecture}",
        state=_state(condition, _sections(_AXES[1:4])),
    )


def views(architectures: Iterable[str] = ()) -> list[View]:
    """Return the views of an experiment in which those `architectures` were measured."""
    names = list(dict.fromkeys(architectures))[:MAX_ARCHITECTURES]
    return [
        all_settings(),
        best_of_groups(),
        *(view for name in names if (view := one_architecture(name)) is not None),
    ]


def is_known(version: str) -> bool:
    """Return whether the UI of that version of MLflow is known to read what is written here."""
    return ".".join(version.split(".")[:2]) in KNOWN_VERSIONS


def _sections(axes: Sequence[str]) -> list[tuple[str, int, list[dict[str, Any]]]]:
    """Return the sections: title, charts a row, charts. `axes` are those that vary."""
    return [
        (
            "Speed for memory and batch",
            _HALF,
            [
                _scatter(("METRIC", MEMORY), ("METRIC", SPEED)),
                _scatter(("PARAM", "batch_size"), ("METRIC", SPEED)),
            ],
        ),
        ("Fastest first", _HALF, [_bar(SPEED), _bar(MEMORY)]),
        (
            "Accuracy over training seconds",
            _HALF,
            [_curve(), _scatter(("METRIC", "time_to_accuracy_seconds"), ("METRIC", ACCURACY))],
        ),
        ("Axes, speed and memory", _WIDE, [_parallel(axes, [SPEED, MEMORY])]),
        ("Axes, speed and accuracy", _WIDE, [_parallel(axes, [SPEED, ACCURACY])]),
    ]


def _state(
    condition: str, sections: Sequence[tuple[str, int, list[dict[str, Any]]]]
) -> dict[str, Any]:
    """Return the page's state; a key that the page does not know, it drops."""
    drawn, shown = [], []
    for number, (title, columns, charts) in enumerate(sections):
        section = f"cnnbench-section-{number}"
        shown.append({**_section(section, title), "columns": columns, "cardHeight": _HEIGHT})
        drawn += [
            {**chart, "uuid": f"{section}-{place}", "metricSectionId": section}
            for place, chart in enumerate(charts)
        ]
    shown += [{**_section(f"cnnbench-{name}", name), "display": False} for name in _GENERATED]
    return {
        "searchFilter": condition,
        "orderByKey": f"metrics.`{SPEED}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(_COLUMNS),
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": drawn,
        "compareRunSections": shown,
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "groupBy": None,
        "viewMaximized": False,
        "runListHidden": False,
        "chartsSearchFilter": "",
    }


def _section(key: str, title: str) -> dict[str, Any]:
    return {"uuid": key, "name": title, "display": True, "isReordered": True}


def _chart(kind: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "deleted": False,
        "isGenerated": False,
        "runsCountToCompare": 100,
        **settings,
    }


def _scatter(x: tuple[str, str], y: tuple[str, str]) -> dict[str, Any]:
    return _chart("SCATTER", xaxis={"type": x[0], "key": x[1]}, yaxis={"type": y[0], "key": y[1]})


def _bar(metric: str) -> dict[str, Any]:
    return _chart("BAR", metricKey=metric)


def _parallel(params: Sequence[str], metrics: list[str]) -> dict[str, Any]:
    return _chart(
        "PARALLEL", selectedParams=list(params), selectedMetrics=metrics, showAllRuns=False
    )


def _curve() -> dict[str, Any]:
    return _chart(
        "LINE",
        metricKey=CURVE,
        selectedMetricKeys=[CURVE],
        xAxisKey="metric",
        selectedXAxisMetricKey=SECONDS,
        useGlobalXaxisKey=False,
        xAxisScaleType="linear",
        scaleType="linear",
        lineSmoothness=0,
        useGlobalLineSmoothing=False,
        displayPoints=True,
    )
