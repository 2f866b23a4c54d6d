"""Known answers for each probe, which `t2i-audit calibrate` plants and looks for.

They know the probes' metrics and the filters, so they lie here and not in `audit`.
"""
