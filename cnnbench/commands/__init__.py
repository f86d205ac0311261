"""The commands of `cnnbench`, a module each, imported when they are called."""
