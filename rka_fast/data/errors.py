"""The one exception for everything that can be wrong with input data."""


class DataError(ValueError):
    """A complaint about the data; the message is ready for the user and names a remedy."""
