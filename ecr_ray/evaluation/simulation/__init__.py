"""Evaluation by conversation: a simulated user with a hidden film and a taste talks with a recommender."""
