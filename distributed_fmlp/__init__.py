"""Train one network with four learning rates in parallel, choose by validation, serve the best."""

__version__ = "0.1.0"
