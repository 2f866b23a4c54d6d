"""The pages, one a file; each has a ``page()`` that :mod:`dashboard.app` calls."""
