"""The error with which a request is refused."""


class RefusalError(Exception):
    """Refusal of a request.

    Attributes:
      status: HTTP status code of the answer.
      code: One of the protocol's codes, for the client.
      retry_after: Seconds after which the client may try again; None if there is no such time.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None):
        """Creates the error; the message says what was expected and received, and what to do."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
