"""A run on disk: its folder and claim, stored results, metrics, checkpoints, buckets."""
