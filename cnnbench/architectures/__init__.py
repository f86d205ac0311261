"""The models that can be measured: four of the document, torchvision's, timm's, and your own.

Importing this package imports no torch. What needs it is named as text and imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnnbench.architectures.factory import call, library_version, load, source_digest
from cnnbench.cell import parse_call
from cnnbench.errors import InvalidValueError, UnknownNameError, miss

if TYPE_CHECKING:
    import torch

    from cnnbench.architectures.pretrained import WeightsFile

ARCHITECTURES: dict[str, str] = {
    "simple_cnn": "cnnbench.architectures.simple_cnn:SimpleCNN",
    "resnet": "cnnbench.architectures.resnet:ResNet",
    "mbconv_net": "cnnbench.architectures.mbconv_net:MBConvNet",
    "transfer_resnet50": "cnnbench.architectures.transfer:TransferLearningModel",
    "transfer_efficientnet_lite0": (
        "cnnbench.architectures.efficientnet_lite:TransferEfficientNetLite0"
    ),
}

# What finds the ImageNet weights of those architectures that have some.
IMAGENET_WEIGHTS: dict[str, str] = {
    "transfer_resnet50": "cnnbench.architectures.transfer:imagenet_weights",
    "transfer_efficientnet_lite0": "cnnbench.architectures.efficientnet_lite:imagenet_weights",
}

# Mean and deviation of each channel, in 0..1, with which their authors normalised the images:
# torchvision's ResNet50_Weights.IMAGENET1K_V1.transforms(), and MEAN_RGB and STDDEV_RGB of
# tensorflow/tpu's efficientnet_lite_builder.py.
IMAGENET_STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "transfer_resnet50": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "transfer_efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
}

LIBRARIES = ("torchvision", "timm")


def build(
    architecture: str,
    *,
    num_classes: int,
    image_size: int,
    weights: str = "default",
    download: bool = False,
) -> torch.nn.Module:
    """Build the model that `architecture` names, on the CPU and in train mode.

    It takes float images of shape (batch, 3, image_size, image_size) and returns logits of shape
    (batch, num_classes). Of a model from elsewhere, `check` proves that.

    Args:
        architecture: `resnet`, `torchvision:NAME`, `timm:NAME` or `module.path:factory`, each with
            or without parameters in brackets: `resnet(width=16,depth=2)`.
        num_classes: How many classes there are.
        image_size: Side of the square images, in pixels.
        weights: `default`, `imagenet`, `none`, or a file with the model's `state_dict`.
        download: Whether published weights that are not on this machine may be fetched.

    Raises:
        UnknownNameError: There is no such architecture.
        InvalidValueError: An unknown or impossible parameter, or weights that there are none of.
        ArchitectureError: A model from elsewhere that cannot be imported or built.
        WeightsError: Weights that are missing, damaged, or another model's.
    """
    check_name(architecture)
    file = find_weights(architecture, weights, download=download)
    name, parameters = parse_call(architecture)
    context = {"num_classes": num_classes, "image_size": image_size}
    model: torch.nn.Module
    if name in ARCHITECTURES:
        model = call(name, load(ARCHITECTURES[name]), parameters, context)
    else:
        model = load("cnnbench.architectures.external:build")(name, parameters, context)
    if file:
        load("cnnbench.architectures.pretrained:load")(model, file)
    return model


def check(model: torch.nn.Module, *, num_classes: int, image_size: int) -> None:
    """Prove on two random images that `model` is a classifier; see `external.check`.

    Raises:
        ArchitectureError: It cannot take such images, or does not return one logit per class.
    """
    run = load("cnnbench.architectures.external:check")
    run(model, num_classes=num_classes, image_size=image_size)


def check_name(architecture: str) -> None:
    """Refuse a name that can be no architecture, without importing any model.

    Raises:
        UnknownNameError: A bare name that is no family, or a prefix without a name.
        InvalidValueError: The brackets do not hold `name=literal` pairs.
    """
    name, _ = parse_call(architecture)
    prefix, colon, rest = name.partition(":")
    if name in ARCHITECTURES or (colon and prefix and rest):
        return
    elsewhere = "torchvision:NAME, timm:NAME, or module.path:factory for your own"
    msg = f"{miss('architecture', name, ARCHITECTURES)} From elsewhere: {elsewhere}."
    raise UnknownNameError(msg)


def is_frozen(architecture: str) -> bool:
    """Say whether only the last layer of `architecture` is trained.

    >>> is_frozen("transfer_resnet50"), is_frozen("transfer_resnet50(frozen=False)")
    (True, False)
    >>> is_frozen("transfer_efficientnet_lite0(trainable=all)")
    False
    """
    name, parameters = parse_call(architecture)
    if name == "transfer_efficientnet_lite0":
        return bool(parameters.get("trainable", "head") == "head")
    return name == "transfer_resnet50" and parameters.get("frozen", True) is True


def weights_statistics(
    architecture: str, weights: str
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return what images are to be normalised with, or `None`: with the data set's own statistics.

    A file for a transfer model was trained as the published weights were, on ImageNet.
    """
    name, _ = parse_call(architecture)
    return None if weights == "none" else IMAGENET_STATISTICS.get(name)


def resolved_weights(architecture: str, weights: str = "default") -> str:
    """Return what `weights` means for `architecture`: `imagenet`, `none` or the file as given.

    >>> resolved_weights("transfer_resnet50"), resolved_weights("resnet(width=16)")
    ('imagenet', 'none')

    Raises:
        InvalidValueError: ImageNet weights are asked for where there are none.
    """
    name, _ = parse_call(architecture)
    if weights == "default":
        return "imagenet" if name in IMAGENET_WEIGHTS else "none"
    if weights == "imagenet" and name not in IMAGENET_WEIGHTS:
        msg = (
            f"weights 'imagenet' are there for {' and '.join(IMAGENET_WEIGHTS)} alone, "
            f"not for {name!r}: pass 'none' or a file with its state_dict."
        )
        raise InvalidValueError(msg)
    return weights


def find_weights(
    architecture: str, weights: str = "default", *, download: bool = False
) -> WeightsFile | None:
    """Return the file that the weights of `architecture` lie in; `None` where they are `none`.

    Raises:
        InvalidValueError: ImageNet weights are asked for where there are none.
        MissingWeightsError: Published weights are not on this machine, and were not fetched.
        WeightsError: There is no such file.
    """
    source = resolved_weights(architecture, weights)
    if source == "none":
        return None
    file: WeightsFile
    if source == "imagenet":
        name, _ = parse_call(architecture)
        file = load(IMAGENET_WEIGHTS[name])(download=download)
    else:
        file = load("cnnbench.architectures.pretrained:find_file")(source)
    return file


def code_digest(architecture: str) -> str:
    """Return what changes when the code of a model from elsewhere does; empty for our own.

    For `module.path:factory` that is a digest of the sources of its top-level package (or its one
    file), so that an edited model is measured anew; for a library, its version. None is imported.

    Raises:
        ArchitectureError: The module cannot be found, or the library is not installed.
    """
    name, _ = parse_call(architecture)
    if name in ARCHITECTURES:
        return ""
    library = name.partition(":")[0]
    return library_version(library) if library in LIBRARIES else source_digest(name)
