"""Systems side by side on the same prompts: what they say, what judges think of it, and how sure that is."""
