"""Parts of the probe on watermarks."""
