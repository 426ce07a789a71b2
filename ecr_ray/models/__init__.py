"""The models the repository carries, and how a model's name becomes a directory."""
