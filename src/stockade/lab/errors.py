"""What can go wrong with an experiment itself, as opposed to what it shows."""


class LabError(Exception):
    """The laboratory could not carry out a step; the text says which and why. The product's own errors keep
    their own classes."""
