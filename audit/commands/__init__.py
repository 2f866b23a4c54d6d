"""Commands that are loaded when they are called: entry points of ``t2i_audit.commands``."""
