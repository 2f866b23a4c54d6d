"""Invisible watermarks: codecs, what is read from an image, and attacks on it."""
