"""How a model is trained: one step, one readable loop, and when to stop."""
