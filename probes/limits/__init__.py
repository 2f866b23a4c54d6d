"""Parts of the probes `limitations` and `quality`, one file a question."""
