"""Serving: the endpoint for recommendations, and the page to talk to it."""
