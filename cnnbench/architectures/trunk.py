"""Transfer learning: a pretrained network with a new last layer, the rest frozen or fine-tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from cnnbench.architectures.parameters import require_whole

if TYPE_CHECKING:
    from collections.abc import Mapping

IMAGENET_NUM_CLASSES = 1000
NUM_FEATURE_DIMENSIONS = 2


class Transfer(nn.Module):
    """A network whose last layer, `fc`, is new.

    Where the rest is frozen it stays in evaluation mode: `requires_grad = False` alone does not keep
    batch normalisation from adapting its running statistics in train mode, so that the features would
    drift under the new layer.

    Args:
        model: The network, its last layer an `nn.Linear` called `fc`. It begins with random weights;
            `cnnbench.architectures.build` loads verified ones into it.
        num_classes: Size of the output.
        frozen: Whether only the last layer is trained; False trains everything (fine-tuning).

    Raises:
        InvalidValueError: A value that is impossible.
    """

    def __init__(self, model: nn.Module, *, num_classes: int, frozen: bool) -> None:
        """Replace the last layer, with PyTorch's default initialisation."""
        require_whole(num_classes=num_classes)
        super().__init__()
        self.frozen = frozen
        self.model = model
        self.model.requires_grad_(not frozen)
        self.model.fc = nn.Linear(self._head.in_features, num_classes)
        self.train()

    @property
    def _head(self) -> nn.Linear:
        head = self.model.fc
        assert isinstance(head, nn.Linear)  # noqa: S101 (tells the type)
        return head

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, num_classes) of images (batch, 3, height, width), or of their features."""
        logits: Tensor = self._head(x) if x.ndim == NUM_FEATURE_DIMENSIONS else self.model(x)
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return what the last layer gets of images (batch, 3, height, width): (batch, features)."""
        head = self._head
        self.model.fc = nn.Identity()
        try:
            features: Tensor = self.model(x)
        finally:
            self.model.fc = head
        return features

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (as in nn.Module)
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.model.eval()
            self._head.train(mode)
        return self

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        strict: bool = True,  # noqa: FBT001, FBT002 (as in nn.Module)
        assign: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Load weights of this class, or of the network itself under its published names.

        Of the latter, ImageNet's layer of 1000 classes is left out: it is the one to be replaced.
        """
        backbone = self.own_names(state_dict)
        if "fc.weight" in backbone:
            if backbone["fc.weight"].shape[:1] == (IMAGENET_NUM_CLASSES,):
                backbone.update(self._head.state_dict(prefix="fc."))
            state_dict = {f"model.{name}": tensor for name, tensor in backbone.items()}
        return super().load_state_dict(state_dict, strict, assign)

    def own_names(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Return weights of the network under the names that it has here: by default the published."""
        return dict(published)
