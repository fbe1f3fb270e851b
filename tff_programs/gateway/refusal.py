"""The error that a request is answered with."""


class RefusalError(Exception):
    """A request is refused.

    Attributes:
      status: Status code of the answer.
      code: For the client, one of the protocol's codes.
      retry_after: Seconds after which the client may try again; None if there is no such time.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        """Creates the error; the message says what was expected, received and what to do."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
