"""When to stop: no lower validation loss for a number of epochs."""

from __future__ import annotations

import math


class EarlyStopping:
    """Counts epochs without a lower validation loss; `patience` `None` never stops."""

    def __init__(self, patience: int | None) -> None:
        """Start without any epoch seen."""
        self._patience = patience
        self._lowest = math.inf
        self._num_waited = 0

    def should_stop(self, val_loss: float) -> bool:
        """Take one epoch's validation loss and say whether it was one too many."""
        if val_loss < self._lowest:
            self._lowest, self._num_waited = val_loss, 0
        else:
            self._num_waited += 1
        return self._patience is not None and self._num_waited >= self._patience
