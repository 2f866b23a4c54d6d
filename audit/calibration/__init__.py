"""The audit audited: effects of known size planted in the phantoms, and how often they are found.

``pool`` makes the images, ``drawn`` answers a probe's requests with them, ``tally`` counts,
``result`` and ``page`` say it; what is planted is each probe's own matter (``t2i_audit.trials``).
"""
