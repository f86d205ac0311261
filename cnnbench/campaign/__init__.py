"""One call of `cnnbench study`: runs what the studies need, judges it, writes what came of it."""
