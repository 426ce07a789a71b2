"""The right film for the feeling of the moment: catalogue, linking, models, baselines, and how they are measured."""
