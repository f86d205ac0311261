"""Who cnnbench is held against: the loop, the cell that takes turns with it, and what is asked of us."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from bench.loop_launcher import LoopLauncher
from cnnbench.cell import Cell, Recipe, Timing

if TYPE_CHECKING:
    from bench.figures import Figure

# What `--only` knows them by, in the order in which they are measured.
GROUPS = ("bare", "item", "torchvision", "timm", "fabric")
DATASET = "synthetic(image_size=32,num_classes=10)"
TIMING = Timing(min_windows=12, max_windows=12, limit_seconds=10.0, warmup_steps=3)
# Each window of timm's is its whole procedure of 40 iterations.
LONG = replace(TIMING, min_windows=4, max_windows=4)


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """One comparison: `loop` is a name in `bench.peers.loops`, or `bare`; `cell` is ours.

    `target` is how many times as fast as the other we are to be at least; `None`: nothing is asked.
    """

    name: str
    loop: str
    what: str
    cell: Cell
    needs: str | None = None
    workload: str = "training"
    target: float | None = None

    @property
    def group(self) -> str:
        """Return what `--only` knows it by."""
        return "torchvision" if self.loop == "loading" else self.loop

    def missing(self) -> str | None:
        """Return the package that it needs and that is not installed."""
        return self.needs if self.needs and find_spec(self.needs) is None else None

    def launcher(self) -> PeerLoops:
        """Return what runs the other side in a process of its own."""
        return PeerLoops(self.loop)


class PeerLoops(LoopLauncher):
    """Runs one of the loops in place of a worker."""

    def __init__(self, loop: str) -> None:
        super().__init__()
        self.loop = loop

    def command(self, cell: Cell) -> list[str]:
        setting = (cell.architecture, cell.precision, cell.batch_size, cell.recipe.image_size)
        return [sys.executable, "-m", "bench.peers.loops", self.loop, *map(str, setting)]


def opponents(*, cuda: bool) -> list[Opponent]:
    """Return all comparisons for a CPU, or for a GPU."""
    architecture = "resnet" if cuda else "resnet(width=16,depth=1)"
    batch_size = 128 if cuda else 64
    precisions = ("fp32", "bf16")
    found = [
        Opponent(
            name=f"peer_bare_{precision}",
            loop="bare",
            what="a bare loop",
            cell=_cell(architecture, precision, batch_size),
            target=0.98 if cuda else 0.99,
        )
        for precision in precisions
    ]
    found += [
        Opponent(
            name=f"peer_item_{precision}",
            loop="item",
            what="a loop with two .item() a step",
            cell=_cell(architecture, precision, 128),
            target=1.15 if cuda else None,
        )
        for precision in precisions
    ]
    fed = _cell(architecture, "bf16", batch_size, augmentation="flip+crop")
    found += [
        Opponent(
            name="peer_torchvision_loading",
            loop="loading",
            what="DataLoader with v2 transforms, loading alone",
            cell=fed,
            workload="loading",
            target=None if cuda else 3.0,
        ),
        Opponent(
            name="peer_torchvision_training",
            loop="torchvision",
            what="training fed by DataLoader with v2 transforms",
            cell=fed,
        ),
    ]
    found.append(
        Opponent(
            name="peer_timm",
            loop="timm",
            what="timm's benchmark procedure, 40 synchronised iterations",
            cell=_timm_cell(cuda=cuda),
            needs="timm",
        )
    )
    found += [
        Opponent(
            name=f"peer_fabric_{precision}",
            loop="fabric",
            what="Lightning Fabric's step",
            cell=_cell(architecture, precision, batch_size),
            needs="lightning_fabric",
        )
        for precision in precisions
    ]
    return found


def described(one: Opponent) -> str:
    """Return the comparison in words, for a row of the table."""
    return f"{one.cell.name}: our images/s over {one.what}"


def is_ours(figure: Figure) -> bool:
    """Say whether a figure is of such a comparison."""
    return figure.name.startswith("peer_")


def _cell(
    architecture: str, precision: str, batch_size: int, *, augmentation: str = "none"
) -> Cell:
    recipe = Recipe(weights="none", augmentation=augmentation, image_size=32, num_classes=10)
    return Cell(
        architecture=architecture,
        precision=precision,
        batch_size=batch_size,
        memory_format="channels_last",
        dataset=DATASET,
        recipe=recipe,
        timing=TIMING,
    )


def _timm_cell(*, cuda: bool) -> Cell:
    name, batch_size = ("resnet50", 256) if cuda else ("mobilenetv3_small_050", 16)
    cell = _cell(f"timm:{name}", "bf16" if cuda else "fp32", batch_size)
    recipe = replace(cell.recipe, optimizer="sgd", image_size=224 if cuda else 64)
    dataset = f"synthetic(image_size={recipe.image_size},num_classes=10)"
    return replace(cell, dataset=dataset, recipe=recipe, timing=LONG)
