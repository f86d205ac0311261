"""The training loop on real digits: it learns, repeats itself, stops, and looks at the test once."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from cnnbench.data.device_data import open_prepared
from cnnbench.data.device_loader import DeviceLoader
from cnnbench.precision import precision
from cnnbench.training.fit import DivergedError, evaluate, fit
from cnnbench.training.optimizer import make_optimizer
from cnnbench.training.step import TrainingStep
from sample_jobs import tiny_cell, tiny_recipe
from sample_models import assert_equal_tensors, build

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cnnbench.cell import Cell
    from cnnbench.environment import DatasetInfo
    from cnnbench.record import Epoch, Fit

CPU = torch.device("cpu")
RESNET = "resnet(width=4,depth=1)"


class CountingLoader(DeviceLoader):
    """Counts how often its images were gone through, in order and shuffled."""

    num_evaluations = 0
    num_epochs = 0

    def ordered(self, batch_size: int | None = None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.num_evaluations += 1
        return super().ordered(batch_size)

    def epoch(self, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.num_epochs += 1
        return super().epoch(seed)


class Training:
    """A cell's training, put together by hand."""

    def __init__(self, digits: DatasetInfo, cell: Cell) -> None:
        recipe = cell.recipe
        data = open_prepared(digits, device=CPU, image_size=16, train_subset=recipe.train_subset)
        self.cell = cell
        self.train = CountingLoader(data.train, batch_size=cell.batch_size, augment="crop")
        self.val = CountingLoader(data.val, batch_size=cell.batch_size)
        self.test = CountingLoader(data.test, batch_size=cell.batch_size)
        self.mode = precision(cell.precision)
        self.model = build(cell.architecture, 16, seed=cell.seed)
        optimizer = make_optimizer(self.model, recipe, CPU)
        self.step = TrainingStep(self.model, optimizer, precision=self.mode, device=CPU)
        self.told: list[tuple[int, Epoch]] = []

    def run(self) -> Fit:
        return fit(
            self.step,
            self.cell,
            (self.train, self.val, self.test),
            precision=self.mode,
            on_epoch=lambda number, epoch: self.told.append((number, epoch)),
        )


@pytest.fixture
def make(digits: DatasetInfo) -> Any:
    def make(architecture: str = RESNET, **changes: Any) -> Training:
        axes = {name: changes.pop(name) for name in ("seed", "precision") if name in changes}
        recipe = tiny_recipe(**{"epochs": 3, "learning_rate": 0.01, **changes})
        return Training(digits, tiny_cell(architecture, recipe=recipe, **axes))

    return make


def curves(result: Fit) -> list[tuple[float, ...]]:
    """Return everything of each epoch but the time that it took."""
    return [astuple(replace(e, train_seconds=0.0, val_seconds=0.0)) for e in result.epochs]


@pytest.mark.parametrize("mode", ["fp32", "bf16"])
def test_training_learns(make: Any, mode: str) -> None:
    result = make(precision=mode, epochs=4).run()
    first, last = result.epochs[0], result.epochs[-1]
    assert last.train_loss < 0.8 * first.train_loss
    assert last.val_loss < first.val_loss
    assert last.val_accuracy > 0.4
    assert result.test_accuracy > 0.3
    assert result.num_train_images == 256


def test_the_same_seed_gives_the_same_curves_bit_for_bit(make: Any) -> None:
    one, two, other = (make(seed=seed).run() for seed in (3, 3, 4))
    assert curves(one) == curves(two)
    assert one.test_accuracy == two.test_accuracy
    assert curves(one) != curves(other)


def test_what_drew_random_numbers_before_does_not_matter(make: Any) -> None:
    plain = make()
    disturbed = make()
    torch.rand(1000)
    assert curves(plain.run()) == curves(disturbed.run())


def test_every_epoch_is_told_as_it_ends(make: Any) -> None:
    training = make()
    result = training.run()
    assert training.told == list(enumerate(result.epochs, 1))
    assert training.train.num_epochs == training.val.num_evaluations == 3
    assert all(epoch.train_seconds > 0 and epoch.val_seconds > 0 for epoch in result.epochs)


def test_the_test_images_are_looked_at_once(make: Any) -> None:
    training = make()
    training.run()
    assert training.test.num_evaluations == 1
    assert training.test.num_epochs == training.val.num_epochs == 0


def test_the_best_epoch_is_the_one_that_is_tested(make: Any) -> None:
    # At this rate the accuracy goes up and down.
    training = make(epochs=8, learning_rate=0.05, optimizer="sgd", schedule="constant")
    result = training.run()
    accuracies = [epoch.val_accuracy for epoch in result.epochs]
    assert result.best is not None
    assert max(accuracies) > accuracies[-1], (
        "the last epoch must not be the best, to tell them apart"
    )
    assert evaluate(training.model, training.val, training.mode)[1] == max(accuracies)
    assert evaluate(training.model, training.test, training.mode)[1] == result.test_accuracy


def test_a_plateau_lowers_the_rate_in_a_run(make: Any) -> None:
    # So low a rate changes no loss.
    rates = [e.learning_rate for e in make(epochs=8, learning_rate=1e-12).run().epochs]
    assert rates == pytest.approx([1e-12] * 7 + [1e-13])


def test_training_stops_early_and_says_so(make: Any) -> None:
    options = {"learning_rate": 1e-30, "optimizer": "sgd", "patience": 2}
    # Without batch normalisation nothing at all changes between epochs.
    stopped = make("simple_cnn(width=4,hidden=16)", epochs=9, **options).run()
    assert (len(stopped.epochs), stopped.stopped_early) == (3, True)
    whole = make("simple_cnn(width=4,hidden=16)", epochs=3, **options).run()
    assert (len(whole.epochs), whole.stopped_early) == (3, False)
    assert whole.test_accuracy == stopped.test_accuracy


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_every_schedule_runs_to_its_end(make: Any, schedule: str) -> None:
    training = make(schedule=schedule)
    rates = [epoch.learning_rate for epoch in training.run().epochs]
    last = float(training.step.optimizer.param_groups[0]["lr"])
    assert len(rates) == 3
    if schedule == "constant":
        assert {*rates, last} == {0.01}
    else:
        assert last < 0.001 < max(rates)


def test_a_rate_that_is_far_too_high_diverges_and_is_not_tested(make: Any) -> None:
    training = make(optimizer="sgd", learning_rate=1e6, schedule="constant")
    with pytest.raises(
        DivergedError, match=r"the (training|validation) loss of epoch \d is"
    ) as raised:
        training.run()
    assert raised.value.fit.test_accuracy is None
    assert raised.value.fit.best is None or len(raised.value.fit.epochs) < 3
    assert training.test.num_evaluations == 0


def test_divergence_keeps_the_epochs_before_it(make: Any) -> None:
    training = make(schedule="constant", optimizer="sgd")
    group = training.step.optimizer.param_groups[0]

    def explode(number: int, epoch: Epoch) -> None:
        training.told.append((number, epoch))
        group["lr"] = 1e20

    with pytest.raises(DivergedError, match="epoch 2") as raised:
        fit(
            training.step,
            training.cell,
            (training.train, training.val, training.test),
            precision=training.mode,
            on_epoch=explode,
        )
    assert raised.value.fit.epochs == tuple(epoch for _, epoch in training.told)
    assert len(raised.value.fit.epochs) == 1


def test_an_evaluation_changes_nothing_and_counts_every_image(make: Any) -> None:
    training = make()
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    loss, accuracy, seconds = evaluate(training.model, training.val, training.mode)
    assert_equal_tensors(dict(training.model.state_dict()), before)
    assert not training.model.training
    batches = list(training.val.ordered(7))
    with torch.no_grad():
        logits = torch.cat([training.model(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    assert len(labels) == 270
    expected = torch.nn.functional.cross_entropy(logits, labels).item()
    assert loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert seconds > 0


def test_fp16_reports_its_scale_and_the_steps_it_skipped(make: Any) -> None:
    result = make(precision="fp16", epochs=1, train_subset=64).run()
    assert result.skipped_steps is not None
    assert result.skipped_steps >= 0
    assert result.final_loss_scale == 65536 / 2**result.skipped_steps
    assert make(epochs=1, train_subset=64).run().skipped_steps is None
