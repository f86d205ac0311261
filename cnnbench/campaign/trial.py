"""One study under way: which cells it needs next, and its verdicts so far."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cnnbench.analysis.judge import judge
from cnnbench.study import METRICS, Verdict
from cnnbench.sweep.arms import Arm, make_cell
from cnnbench.sweep.plan import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cnnbench.cell import Cell
    from cnnbench.job import Ready
    from cnnbench.record import Record
    from cnnbench.study import Claim, Study

# Cells that only tell at which batch an arm is to be measured; no verdict counts them, or the choice of
# what looked best would count as evidence that it is.
SCOUT_SEED = 1_000_003


@dataclass(kw_only=True)
class Trial:
    """A study on the data and the machine that the preflight found.

    `records` are those that stand, by cell hash, shared by all studies of a campaign. `worked_out` are, by
    arm, the values of what is tied by a rule that only a worker can work out. A study that cannot be run
    has a `reason` and no `ready`.
    """

    study: Study
    device: str
    records: Mapping[str, Record]
    ready: Ready | None = None
    worked_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reason: str = ""

    def next_cells(self) -> list[Cell]:
        """Return what must run before the next look; nothing when all is decided, or can be.

        The arms of one seed stand next to each other, in an order drawn anew for each seed: for a claim
        on speed the two that are compared ran within a minute of each other.
        """
        if self.ready is None:
            return []
        tests = [test for test in self._tests() if self._verdict(*test).is_open]
        scouts = [cell for test in tests for cell in self._missing_scouts(*test)]
        if scouts:
            return list(dict.fromkeys(scouts))
        for look in self.study.looks:
            cells = [cell for seed in range(look) for cell in self._missing_at(tests, seed)]
            if cells:
                return cells
        return []

    def timed_precisions(self) -> list[str]:
        """Return the precisions in which cells are still to be timed."""
        if not any(cell.timing.max_windows for cell in self.next_cells()):
            return []
        arms = [Arm(name=name, kind="profile") for name in self.study.arms]
        return [self._cell(arm, 0).precision for arm in arms]

    def verdicts(self) -> list[Verdict]:
        """Return the verdict on each claim for each of its variants, from the records there are."""
        return [self._verdict(claim, variant) for claim, variant in self._tests()]

    def used(self) -> list[Record]:
        """Return the records that the study looked at, its scouts included."""
        if self.ready is None:
            return []
        cells = [cell for test in self._tests() for cell in self._scouts(*test)]
        for claim, variant in self._tests():
            for seed in range(self.study.max_seeds):
                cells += self._pair(claim, variant, seed) or ()
        found = [self.records[cell.hash] for cell in cells if cell.hash in self.records]
        return list({record.cell_hash: record for record in found}.values())

    def _tests(self) -> list[tuple[Claim, str]]:
        return [(claim, variant) for claim in self.study.claims for variant in claim.variants]

    def _verdict(self, claim: Claim, variant: str) -> Verdict:
        if self.ready is None:
            return self._unmeasured(claim, variant, self.reason)
        stuck = self._why_no_batch(claim, variant)
        if stuck:
            return self._unmeasured(claim, variant, stuck)
        pairs = []
        for seed in range(self.study.max_seeds):
            cells = self._pair(claim, variant, seed)
            if cells is None or any(cell.hash not in self.records for cell in cells):
                break
            pairs.append((self.records[cells[0].hash], self.records[cells[1].hash]))
        return judge(
            self.study, claim, variant, pairs, device=self.device, dataset=self.ready.dataset
        )

    def _unmeasured(self, claim: Claim, variant: str, reason: str) -> Verdict:
        dataset = self.ready.dataset.name if self.ready else self.study.dataset
        return Verdict(
            study=self.study.name,
            claim=claim.text,
            variant=variant,
            baseline=claim.baseline,
            device=self.device,
            dataset=dataset,
            outcome="not_measured",
            unit=METRICS[claim.metric].unit,
            threshold=claim.threshold,
            direction=claim.direction,
            reason=reason,
        )

    def _missing_at(self, tests: Sequence[tuple[Claim, str]], seed: int) -> list[Cell]:
        """Return the cells of one seed that have not run, in random order."""
        cells = [cell for test in tests for cell in self._pair(*test, seed) or ()]
        missing = [cell for cell in dict.fromkeys(cells) if cell.hash not in self.records]
        # An order, no secret.
        return random.Random(seed).sample(missing, len(missing))  # noqa: S311

    def _pair(self, claim: Claim, variant: str, seed: int) -> tuple[Cell, Cell] | None:
        """Return the two cells of one seed; `None` while their batches are not known."""
        kind = METRICS[claim.metric].kind
        arms = [Arm(name=name, kind=kind, at=claim.at) for name in (claim.baseline, variant)]
        batches = [self._batch(arm, claim) for arm in arms]
        if any(isinstance(batch, str) for batch in batches):
            return None
        first, second = (
            self._cell(arm, seed, batch if isinstance(batch, int) else None)
            for arm, batch in zip(arms, batches, strict=True)
        )
        return first, second

    def _cell(self, arm: Arm, seed: int, batch_size: int | None = None) -> Cell:
        assert self.ready is not None  # noqa: S101 (a study without is asked for no cells)
        cell = make_cell(
            self.study,
            arm,
            seed=seed,
            batch_size=batch_size,
            worked_out=self.worked_out.get(arm.name),
        )
        return resolve(cell, self.ready.dataset)

    # Batches of an arm's own ---------------------------------------------------------------------

    def _batch(self, arm: Arm, claim: Claim) -> int | str | None:
        """Return the batch of `arm`, `None` being the study's own; a text says why there is none yet."""
        if arm.at == "equal" or (arm.at == "equal_memory" and arm.name == claim.baseline):
            return None
        scouted = [self.records.get(cell.hash) for cell in self._ladder(arm)]
        if arm.at == "best_batch":
            if any(record is None for record in scouted):
                return "its batches have not all been tried"
            return _fastest(scouted)
        return self._largest_within(arm, claim, scouted)

    def _largest_within(
        self, arm: Arm, claim: Claim, scouted: Sequence[Record | None]
    ) -> int | str:
        """Return the largest batch that needs no more memory than the baseline's cell."""
        base = self.records.get(self._base_scout(claim).hash)
        if base is None:
            return "the baseline's memory is not known yet"
        budget = base.metrics().get("peak_allocated_mib")
        if budget is None:
            return f"the baseline's memory was not measured ({base.error or base.status})"
        best = None
        for record in scouted:
            if record is None:
                return "its batches have not all been tried"
            peak = record.metrics().get("peak_allocated_mib")
            if record.status != "completed" or peak is None or peak > budget:
                break
            best = record.cell.batch_size
        return (
            best or f"no batch of {arm.name} needs {budget:.0f} MiB or less, as the baseline does"
        )

    def _ladder(self, arm: Arm) -> list[Cell]:
        scout = replace(arm, kind="profile")
        return [self._cell(scout, SCOUT_SEED, size) for size in sorted(self.study.batch_sizes)]

    def _base_scout(self, claim: Claim) -> Cell:
        return self._cell(Arm(name=claim.baseline, kind="profile"), SCOUT_SEED)

    def _scouts(self, claim: Claim, variant: str) -> list[Cell]:
        """Return the cells that tell the batches of both arms."""
        if self.ready is None or claim.at == "equal":
            return []
        names = [variant] if claim.at == "equal_memory" else [claim.baseline, variant]
        cells = [self._base_scout(claim)] if claim.at == "equal_memory" else []
        for name in names:
            cells += self._ladder(Arm(name=name, kind="profile", at=claim.at))
        return cells

    def _missing_scouts(self, claim: Claim, variant: str) -> list[Cell]:
        return [cell for cell in self._scouts(claim, variant) if cell.hash not in self.records]

    def _why_no_batch(self, claim: Claim, variant: str) -> str:
        """Say why an arm has no batch although all were tried."""
        if self._missing_scouts(claim, variant):
            return ""
        for name in (claim.baseline, variant):
            batch = self._batch(Arm(name=name, kind="profile", at=claim.at), claim)
            if isinstance(batch, str):
                return batch
        return ""


def _fastest(scouted: Sequence[Record | None]) -> int | str:
    rates = {
        record.cell.batch_size: rate
        for record in scouted
        if record is not None
        and record.validity != "invalid"
        and (rate := record.metrics().get("images_per_second")) is not None
    }
    return max(rates, key=rates.__getitem__) if rates else "none of its batches could be measured"
