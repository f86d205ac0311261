"""Models from elsewhere: torchvision's, timm's, or of your own factory; built and checked."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from cnnbench.architectures.factory import (
    add_working_folder_to_path,
    blame,
    call,
    library_version,
    load,
)
from cnnbench.errors import ArchitectureError, InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NUM_IMAGES = 2


def build(name: str, parameters: Mapping[str, object], context: Mapping[str, int]) -> nn.Module:
    """Build `torchvision:NAME`, `timm:NAME` or `module.path:factory`, with random weights.

    Args:
        name: The name, without brackets.
        parameters: What stood in the brackets.
        context: `num_classes` and `image_size`.

    Raises:
        UnknownNameError: The library has no such model.
        InvalidValueError: A parameter that the factory does not take.
        ArchitectureError: The library is not installed; the factory cannot be imported, raises, or
            returns no module, or one whose shapes are not known yet.
    """
    library, _, model_name = name.partition(":")
    if library == "torchvision":
        return _build_torchvision(model_name, parameters, **context)
    if library == "timm":
        return _build_timm(model_name, parameters, **context)
    add_working_folder_to_path()
    model = call(name, load(name), parameters, context)
    if not isinstance(model, nn.Module):
        msg = f"cannot build {name!r}: it returned {_describe(model)}, not a torch.nn.Module."
        raise ArchitectureError(msg)
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        msg = f"cannot build {name!r}: it has lazy layers. Run an image through it in the factory."
        raise ArchitectureError(msg)
    return model


def check(model: nn.Module, *, num_classes: int, image_size: int) -> None:
    """Run two random images through `model` in either mode, on the CPU; it is left as it was.

    Raises:
        ArchitectureError: It raises, or returns anything but floats of shape (2, num_classes).
    """
    kind = type(model).__name__
    shape = (NUM_IMAGES, 3, image_size, image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        mode = "train" if training else "evaluation"
        with blame(f"{kind} cannot take 3x{image_size}x{image_size} images in {mode} mode"):
            output = _try(model, images, training=training)
        is_tensor = isinstance(output, torch.Tensor) and output.is_floating_point()
        if not is_tensor or output.shape != (NUM_IMAGES, num_classes):
            msg = (
                f"{kind} is no classifier of {num_classes} classes: in {mode} mode it returned "
                f"{_describe(output)}, not one floating tensor of shape {NUM_IMAGES, num_classes}."
            )
            raise ArchitectureError(msg)


def _try(model: nn.Module, images: torch.Tensor, *, training: bool) -> Any:
    """Return what `model` makes of `images`; it and the random state stay as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model.train(training)
            return model(images)
    finally:
        # Not model.train(): a part that its author keeps in evaluation mode stays there.
        for module, was_training in modes:
            module.training = was_training
        for buffer, value in buffers:
            buffer.copy_(value)


def _build_torchvision(
    name: str, parameters: Mapping[str, object], *, num_classes: int, image_size: int
) -> nn.Module:
    models = _import("torchvision", "torchvision.models")
    names = models.list_models(module=models)
    if name not in names:
        _raise_unknown("torchvision", name, names)
    _refuse_weights("torchvision", parameters)
    arguments: dict[str, object] = {"weights": None, "num_classes": num_classes}
    if name in {"googlenet", "inception_v3"}:
        # Their auxiliary classifiers would make the output a tuple in train mode.
        arguments |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        arguments["image_size"] = image_size
    with blame(f"cannot build 'torchvision:{name}'"):
        model: nn.Module = models.get_model(name, **{**arguments, **parameters})
    return model


def _build_timm(
    name: str, parameters: Mapping[str, object], *, num_classes: int, image_size: int
) -> nn.Module:
    timm = _import("timm", "timm")
    if not timm.is_model(name):
        _raise_unknown("timm", name, timm.list_models())
    _refuse_weights("timm", parameters)
    arguments: dict[str, object] = {"pretrained": False, "num_classes": num_classes}
    with blame(f"cannot build 'timm:{name}'"):
        config = timm.get_pretrained_cfg(name)
        if config and config.fixed_input_size:
            arguments["img_size"] = image_size
        model: nn.Module = timm.create_model(name, **{**arguments, **parameters})
    return model


def _import(library: str, module: str) -> Any:
    """Import `module` only when a model of it is asked for: it takes seconds, or is optional."""
    library_version(library)
    with blame(f"cannot import {module!r}"):
        return importlib.import_module(module)


def _raise_unknown(library: str, name: str, names: Sequence[str]) -> NoReturn:
    nearest = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0.0))
    msg = f"{library} has no classifier {name!r}. The nearest of its {len(names)}: {nearest}."
    raise UnknownNameError(msg)


def _refuse_weights(library: str, parameters: Mapping[str, object]) -> None:
    """Refuse what would make a library fetch or read weights by itself, unverified."""
    for parameter in parameters:
        if parameter.startswith(("weights", "pretrained", "checkpoint_path")):
            msg = f"{library} gets no {parameter!r}: pass a file with the state_dict by --weights."
            raise InvalidValueError(msg)


def _describe(output: object) -> str:
    if output is None:
        return "None"
    if isinstance(output, torch.Tensor):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor of shape {tuple(output.shape)}"
    return f"a {type(output).__name__}"
