"""Errors of a device that takes part: for good, for now, or of one request."""


class FederationError(ValueError):
    """The device cannot take part until a person changes something."""


class UnavailableError(RuntimeError):
    """The server does not serve now.

    Attributes:
      seconds: Time after which the device comes back; None if the server gave no time.
    """

    def __init__(self, message: str, seconds: int | None = None):
        """Creates the error."""
        super().__init__(message)
        self.seconds = seconds


class RefusedError(ValueError):
    """The server refuses a request, and would refuse it again.

    Attributes:
      status: Status code of the answer.
      code: One of the protocol's codes.
      date: The server's time, as its header `Date` has it.
    """

    def __init__(self, status: int, code: str, message: str, date: str | None = None):
        """Creates the error."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.date = date
