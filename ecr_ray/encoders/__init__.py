"""An encoder with heads: its input, shape, losses, training on Ray Train, and prediction; what critics, reaction
readers and emotion classifiers are made of."""
