"""The parts of the probe ``demographics``: what is asked, how it is read, each estimand."""
