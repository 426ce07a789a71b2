"""Empathetic conversational recommendation on Ray: dialogues in, a measured and served policy out."""

__version__ = "0.1.0"
