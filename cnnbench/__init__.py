"""cnnbench: what each documented way of training a CNN really buys on your own GPU."""

__version__ = "0.1.0"
