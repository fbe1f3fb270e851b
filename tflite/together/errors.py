"""Errors of a participating device: permanent, temporary, or of one request."""


class FederationError(ValueError):
    """The device cannot take part until a person changes something."""


class UnavailableError(RuntimeError):
    """The server is unavailable for now.

    Attributes:
      seconds: Seconds after which the device may try again; None if the server gave none.
    """

    def __init__(self, message: str, seconds: int | None = None):
        """Creates the error."""
        super().__init__(message)
        self.seconds = seconds


class RefusedError(ValueError):
    """The server refuses a request, and would refuse it again.

    Attributes:
      status: HTTP status code of the answer.
      code: One of the protocol's codes.
      date: The server's time, from the header `Date` of the answer.
    """

    def __init__(self, status: int, code: str, message: str, date: str | None = None):
        """Creates the error."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.date = date
