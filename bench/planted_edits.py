"""Regressions to plant: the edits that make each, the tests that show it, and the suite that holds these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TIMED, TRAINED = "training/", "accuracy/"

SUITES = {
    "cpu": """
[recipe]
weights = "none"
[timing]
min_windows = 8
max_windows = 32
half_width = 0.02
limit_seconds = 8.0
warmup_steps = 3
[[training]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "bench.planted:SlowedResNet(width=32,depth=1)"
batch_size = 16
memory_format = "channels_last"
[[inference]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "mbconv_net(width=0.25,depth=0.25)"
precision = "bf16"
batch_size = 64
memory_format = "channels_last"
[[accuracy]]
dataset = "digits"
architecture = "simple_cnn"
batch_size = 64
recipe = { epochs = 2, image_size = 16 }
""",
    "cuda": """
[recipe]
weights = "none"
[timing]
min_windows = 8
max_windows = 32
half_width = 0.02
limit_seconds = 8.0
[[training]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "bench.planted:SlowedResNet(width=64,depth=2)"
precision = ["fp32", "bf16"]
batch_size = 256
memory_format = "channels_last"
[[inference]]
dataset = "synthetic(image_size=32,num_classes=10)"
architecture = "mbconv_net"
precision = "bf16"
batch_size = 256
memory_format = "channels_last"
[[accuracy]]
dataset = "digits"
architecture = "simple_cnn"
batch_size = 64
recipe = { epochs = 2, image_size = 16 }
""",
}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A text that stands once in a file of the tree, and what takes its place."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A regression: the edits that make it, the tests that show it, and the measures that may tell."""

    name: str
    edits: tuple[Edit, ...]
    tests: str
    measures: tuple[str, ...]


LEAK = Plant(
    name="a leak of 32 MiB",
    edits=(
        Edit(
            path="cnnbench/training/step.py",
            old="        self.num_attempts = 0\n",
            new="        self.num_attempts = 0\n"
            "        self.kept = torch.ones(2**23, device=device)\n",
        ),
    ),
    tests=TIMED,
    measures=("allocated memory", "process memory"),
)

LAYOUT = Plant(
    name="channels_last lost",
    edits=(
        Edit(
            path="cnnbench/setup.py",
            old="        memory_format = MEMORY_FORMATS[cell.memory_format]\n",
            new="        memory_format = torch.contiguous_format\n",
        ),
        Edit(
            path="cnnbench/setup.py",
            old='channels_last=self.cell.memory_format == "channels_last"',
            new="channels_last=False",
        ),
    ),
    tests=TIMED,
    measures=("throughput",),
)

BF16 = Plant(
    name="a bf16 cast under fp32",
    edits=(
        Edit(
            path="cnnbench/precision.py",
            old="            return nullcontext()\n",
            new="            return torch.autocast(device.type, dtype=torch.bfloat16)\n",
        ),
    ),
    tests="fp32",
    measures=("precision",),
)

TF32 = Plant(
    name="TF32 switched on under fp32",
    edits=(
        Edit(
            path="cnnbench/precision.py",
            old="allow_tf32: ClassVar[bool] = False",
            new="allow_tf32: ClassVar[bool] = True",
        ),
    ),
    tests="fp32",
    measures=("precision",),
)

NORMALISATION = Plant(
    name="lower accuracy: images divided by 255 twice",
    edits=(
        Edit(
            path="cnnbench/data/device_loader.py",
            old="    scale = [1 / (_MAX_GREY * std)",
            new="    scale = [1 / (_MAX_GREY**2 * std)",
        ),
    ),
    tests=TRAINED,
    measures=("accuracy",),
)

SLOWER = "a step slower by"

# By construction, not by measurement: it waits for a twentieth of the time that it computed.
WAITING = Plant(
    name=f"{SLOWER} 5.0%",
    edits=(
        Edit(
            path="cnnbench/training/step.py",
            old="        loss, logits = self._compute(images, labels)\n        tally.add",
            new="        from time import perf_counter\n"
            "        begin = perf_counter()\n"
            "        loss, logits = self._compute(images, labels)\n"
            "        end = perf_counter()\n"
            "        while perf_counter() < end + (end - begin) / 20:\n"
            "            pass\n"
            "        tally.add",
        ),
    ),
    tests=TIMED,
    measures=("throughput",),
)


def convolving(channels: int, slowdown: float) -> Plant:
    """Return the plant of a convolution more, whose cost was measured in this session."""
    return Plant(
        name=f"{SLOWER} {slowdown:.1%}",
        edits=(
            Edit(
                path="bench/planted.py",
                old="extra: int = 0\n",
                new=f"extra: int = {channels}\n",
            ),
        ),
        tests=TIMED,
        measures=("throughput",),
    )


def apply(edit: Edit, tree: Path) -> None:
    """Make an edit in a tree.

    Raises:
        ValueError: the text does not stand there exactly once: the plant has to follow the code.
    """
    path = tree / edit.path
    text = path.read_text(encoding="utf-8")
    if text.count(edit.old) != 1:
        msg = f"{edit.path} holds {text.count(edit.old)} times: {edit.old!r}"
        raise ValueError(msg)
    path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
