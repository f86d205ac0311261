"""cnnbench beside other ways to run the same training step, in one session and by turns."""
