"""The document's transfer learning: a ResNet-50 with a new last layer, the rest frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from cnnbench.architectures.parameters import require_flag, require_whole
from cnnbench.architectures.pretrained import find_published

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cnnbench.architectures.pretrained import WeightsFile

# The weights that `pretrained=True` meant. Their name, resnet50-0676ba61, holds 8 digits of this.
IMAGENET_SHA256 = "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a"
IMAGENET_NUM_CLASSES = 1000


class TransferLearningModel(nn.Module):
    """torchvision's ResNet-50 with a new last layer, which alone is trained.

    The document's own (section 3), without its trap: `requires_grad = False` does not keep the
    batch normalisation of a frozen network from adapting its running statistics in train mode, so
    that the features drift under the new layer. Here the frozen part stays in evaluation mode.
    Where the document passes the deprecated `pretrained=True`, this class starts from random
    weights, and `cnnbench.architectures.build` loads verified ones into it.

    Args:
        num_classes: Size of the output.
        frozen: Whether only the last layer is trained; False trains everything (fine-tuning).

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(self, *, num_classes: int = 10, frozen: bool = True) -> None:
        """Build with torchvision's default initialisation."""
        require_whole(num_classes=num_classes)
        require_flag(frozen=frozen)
        super().__init__()
        self.frozen = frozen
        self.model = resnet50(weights=None)
        self.model.requires_grad_(not frozen)
        self.model.fc = nn.Linear(self.model.fc.in_features, num_classes)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width)."""
        logits: Tensor = self.model(x)
        return logits

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (as in nn.Module)
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
            self.model.fc.train(mode)
        return self

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002 (as in nn.Module)
        assign: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Load weights of this class, of the document's, or of torchvision's ResNet-50.

        Of the last, ImageNet's layer of 1000 classes is left out: it is the one to be replaced.
        """
        if "fc.weight" in state_dict:
            backbone = dict(state_dict)
            if backbone["fc.weight"].shape[:1] == (IMAGENET_NUM_CLASSES,):
                backbone.update(self.model.fc.state_dict(prefix="fc."))
            state_dict = {f"model.{name}": tensor for name, tensor in backbone.items()}
        return super().load_state_dict(state_dict, strict, assign)


def imagenet_weights(*, download: bool) -> WeightsFile:
    """Return torchvision's first ImageNet weights (IMAGENET1K_V1), which are the document's.

    Raises:
        MissingWeightsError: They are not on this machine, and may not or cannot be fetched.
    """
    url = ResNet50_Weights.IMAGENET1K_V1.url
    return find_published(url, IMAGENET_SHA256, download=download)
