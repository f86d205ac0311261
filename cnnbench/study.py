"""A piece of advice as data: what is changed, what is claimed of it, and the verdict on each claim."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTIONS = ("up", "down", "same")
AT = ("equal", "best_batch", "equal_memory")
TIES = ("given", "proportional", "square_root", "equal_flops")
OUTCOMES = ("confirmed", "refuted", "inconclusive", "not_measured")
VERDICT_COLUMNS = (
    *("study", "claim", "variant", "device", "dataset", "outcome", "effect", "low", "high"),
    *("unit", "threshold", "num_seeds", "reason"),
)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a claim can be about, and how two values of it are compared.

    `kind` says which cell it is read from: one that is timed and does not train (`profile`), or one that
    trains and is not timed (`fit`). Of a ratio, `unit` is `x`: the variant's value over the baseline's.
    Of a difference, it is the variant's less the baseline's; accuracies count in points of 100. A
    `timed` metric is spoilt by whatever else the machine does, so only valid cells count. An `exact` one
    is counted, not measured: no chance takes part in it.
    """

    text: str
    kind: str
    unit: str = "x"
    timed: bool = False
    exact: bool = False

    @property
    def is_ratio(self) -> bool:
        """Return whether two values are compared by their ratio."""
        return self.unit == "x"


_POINTS = "points"
METRICS = {
    "images_per_second": Metric(text="images per second", kind="profile", timed=True),
    "joules_per_image": Metric(text="energy per image", kind="profile", timed=True),
    "peak_allocated_mib": Metric(text="peak memory", kind="profile"),
    "peak_reserved_mib": Metric(text="reserved memory", kind="profile"),
    "peak_mib_per_image": Metric(text="peak memory per image of the batch", kind="profile"),
    "fits": Metric(text="fitting into memory", kind="profile", unit="cells"),
    "num_parameters": Metric(text="parameters", kind="profile", exact=True),
    "num_trainable_parameters": Metric(text="trained parameters", kind="profile", exact=True),
    "model_gflops_per_image": Metric(text="FLOPs per image", kind="profile", exact=True),
    "train_accuracy": Metric(text="training accuracy", kind="fit", unit=_POINTS),
    "val_accuracy": Metric(text="final validation accuracy", kind="fit", unit=_POINTS),
    "best_val_accuracy": Metric(text="validation accuracy", kind="fit", unit=_POINTS),
    "test_accuracy": Metric(text="test accuracy", kind="fit", unit=_POINTS),
    "generalization_gap": Metric(text="generalisation gap", kind="fit", unit=_POINTS),
    "val_loss": Metric(text="final validation loss", kind="fit"),
    "epochs_run": Metric(text="epochs trained", kind="fit"),
    "epochs_to_accuracy": Metric(text="epochs to the target accuracy", kind="fit"),
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One arm besides the baseline: it changes `factor`, and what is `tied` to that, to `values`."""

    name: str
    factor: str
    values: Mapping[str, Any]
    tied: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the advice promises: how `metric` moves from `baseline` to each of `variants`, and how far.

    `size` is the least that matters: of a ratio 0.05 means 5 % (up: at least 1.05, down: at most 0.95),
    of accuracies 0.5 means half a point.
    With the direction `same` it is the most that does not matter. `at` says at which batch the arms meet:
    the same one, each at its fastest, or each at the largest that needs no more memory than the baseline.
    """

    metric: str
    direction: str
    size: float
    variants: tuple[str, ...]
    baseline: str
    at: str = "equal"

    @property
    def threshold(self) -> float:
        """Return the effect that must be passed, in the unit of effects."""
        sign = -1.0 if self.direction == "down" else 1.0
        return 1 + sign * self.size if METRICS[self.metric].is_ratio else sign * self.size

    @property
    def margin(self) -> float:
        """Return how far from no effect that is, above 0; of a ratio on the logarithmic scale."""
        is_ratio = METRICS[self.metric].is_ratio
        return abs(math.log(self.threshold)) if is_ratio else self.size

    @property
    def text(self) -> str:
        """Return the claim in words.

        >>> Claim(metric="val_loss", direction="same", size=0.1, variants=("a",), baseline="b").text
        'final validation loss the same within 10 % against b'
        """
        metric = METRICS[self.metric]
        unit = metric.unit.removesuffix("s") if self.size == 1 else metric.unit
        size = f"{100 * self.size:g} %" if metric.is_ratio else f"{self.size:g} {unit}"
        how = "the same within" if self.direction == "same" else f"{self.direction} by at least"
        where = {"best_batch": ", each at its fastest batch", "equal_memory": ", at equal memory"}
        return f"{metric.text} {how} {size} against {self.baseline}{where.get(self.at, '')}"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One piece of advice, and the cells that put it to the test.

    The baseline is a cell of `cell` (axes) and `recipe`; a variant differs from it in one of `factors` (an
    axis, a name of the recipe or a parameter of the architecture), and in what is tied to it. `seeds` are run
    before anything is decided, and more up to `max_seeds` while a claim is open. `batch_sizes` are those
    to choose from where a claim is judged at each arm's own batch.
    """

    name: str
    title: str
    advice: str
    section: str
    factors: tuple[str, ...]
    baseline: str
    seeds: int
    max_seeds: int
    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...]
    dataset: str = "digits"
    download: bool = False
    cell: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    timing: Mapping[str, Any] = field(default_factory=dict)
    batch_sizes: tuple[int, ...] = ()
    notes: str = ""
    source: str = ""

    @property
    def looks(self) -> tuple[int, ...]:
        """Return the numbers of seeds at which the claims are looked at, each half as many again."""
        found = [self.seeds]
        while found[-1] < self.max_seeds:
            found.append(min(self.max_seeds, math.ceil(1.5 * found[-1])))
        return tuple(found)

    @property
    def arms(self) -> tuple[str, ...]:
        """Return the names of all arms, the baseline first."""
        return (self.baseline, *(variant.name for variant in self.variants))

    @property
    def num_tests(self) -> int:
        """Return how many verdicts may be wrong by chance: one for each claim and variant."""
        chancy = [claim for claim in self.claims if not METRICS[claim.metric].exact]
        return max(1, sum(len(claim.variants) for claim in chancy))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of one claim for one variant.

    - `confirmed`: the whole interval of the effect lies beyond `threshold` (of a claim of sameness:
      within it).
    - `refuted`: the whole interval lies on the other side: no effect, too small a one, or the opposite.
    - `inconclusive`: the interval holds the threshold; `reason` says how many seeds would decide.
    - `not_measured`: there is nothing to judge; `reason` says why.

    `seeds` are the effects seed by seed, in order; `cells` the hashes of the cells behind them, the
    baseline's and the variant's.
    """

    study: str
    claim: str
    variant: str
    baseline: str
    device: str
    dataset: str
    outcome: str
    unit: str
    threshold: float
    num_seeds: int = 0
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    direction: str = "up"
    is_open: bool = False
    seeds: tuple[float, ...] = ()
    cells: tuple[tuple[str, str], ...] = ()

    def row(self) -> dict[str, Any]:
        """Return the contract's columns, `None` where unknown."""
        return {name: getattr(self, name) for name in VERDICT_COLUMNS}
