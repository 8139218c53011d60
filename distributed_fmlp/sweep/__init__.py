"""The sweep: the only part that knows Ray Tune."""
