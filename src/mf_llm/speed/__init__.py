"""How fast people act, side by side: the usual way of asking a model, continuous batching, and this package."""
