"""What there is to choose from, with a line on each; imports nothing heavy."""

from __future__ import annotations

from cnnbench.architectures import ARCHITECTURES
from cnnbench.data import DATASETS
from cnnbench.sweep.profiles import PROFILES, load_profile
from cnnbench.sweep.studies import STUDIES, load_study

_ARCHITECTURES = {
    "simple_cnn": "two convolutions and two linear layers (width=16, hidden=128)",
    "resnet": "of ResidualBlock, ResNet-18's shape at 32x32 (width=64, depth=2)",
    "mbconv_net": "of MBConv, EfficientNet-B0's shape at 32x32 (width=1.0, depth=1.0)",
    "transfer_resnet50": "torchvision's ResNet-50, frozen, with a new head (frozen=True)",
    "transfer_efficientnet_lite0": "EfficientNet-Lite0 likewise, 4.6 M parameters (trainable=head)",
}
_ELSEWHERE = {
    "torchvision:NAME": "any classifier of torchvision",
    "timm:NAME": "any model of timm, when it is installed",
    "module.path:factory": "your own: a function or class that returns a torch.nn.Module",
}
_PRECISIONS = {
    "fp32": "IEEE single precision, TF32 off everywhere",
    "tf32": "TensorFloat-32 in matrix products and convolutions (NVIDIA Ampere and newer)",
    "bf16": "bfloat16 autocast",
    "fp16": "float16 autocast with GradScaler",
}
_DATASETS = {
    "digits": "8x8 handwritten digits, embedded in scikit-learn",
    "fashion_mnist": "70,000 grey images of clothes, 28x28",
    "cifar10": "60,000 colour images, 32x32, 10 classes",
    "cifar100": "60,000 colour images, 32x32, 100 classes",
    "folder:PATH": "your own images, one folder a class",
    "synthetic(...)": "random images: image_size=, num_classes=, num_images=",
}


def catalogue() -> dict[str, dict[str, str]]:
    """Return names and descriptions by kind: architectures, ..., datasets, studies."""
    return {
        "architectures": {name: _ARCHITECTURES[name] for name in ARCHITECTURES} | _ELSEWHERE,
        "precisions": dict(_PRECISIONS),
        "profiles": {name: load_profile(name).description for name in PROFILES},
        "datasets": {name: _DATASETS[name] for name in DATASETS},
        "studies": {name: load_study(name).advice for name in STUDIES},
    }
