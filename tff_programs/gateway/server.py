"""The HTTP server of the gateway."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import random
import signal
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import tornado.httpserver
import tornado.netutil
import tornado.web

from tff_programs.gateway import device_handlers, devices, update_files
from tff_programs.gateway.address import Address
from tff_programs.gateway.check_in import Training
from tff_programs.gateway.database import UNAVAILABLE, Database
from tff_programs.gateway.grouped_calls import GroupedReads, GroupedWrites
from tff_programs.gateway.handler import Handler, UnknownPath
from tff_programs.gateway.limiter import Limiter
from tff_programs.gateway.metrics import Metrics
from tff_programs.gateway.pace import Pace
from tff_programs.gateway.upload_body import MemoryBudget
from tff_programs.gateway.worker_threads import WorkerThreads

# Threads that check updates. This is CPU-bound: under load one thread is always busy and its
# caches are warm.
_CHECKS = 1
# Threads that mostly wait for the disk.
_THREADS = 8
# Memory for the bodies of small updates; those that do not fit go to temporary files.
HELD_BYTES = 64 * 2**20
_IDLE_SECONDS = 75.0
# Bytes of a body that are read at a time: the update of a small subnet is one chunk.
_CHUNK_BYTES = 256 * 1024
_BODY_SECONDS = 900.0
# Handlers limit the size of bodies themselves, with an answer that explains it.
_NO_BOUND = 2**60
_COUNT_SECONDS = 30.0
# Time for requests in progress to finish when the server stops.
END_SECONDS = 10.0
_END_POLL_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Settings of the server that devices connect to.

    Attributes:
      training: Settings of the training, sent with each task.
      max_staleness: Maximum number of rounds that may be closed before an update arrives.
      pace: Chooses the time until a device's next check-in.
      requests_per_hour: Maximum number of requests per hour of a device.
      max_devices: Maximum number of enrolled devices.
    """

    training: Training
    max_staleness: int = 3
    pace: Pace = dataclasses.field(default_factory=Pace)
    requests_per_hour: float = 600.0
    max_devices: int = 1_000_000


class Gateway:
    """State and services that the request handlers share."""

    def __init__(
        self,
        database: Database,
        folder: str,
        secret: bytes,
        settings: ServerSettings,
        on_progress: Callable[[str], None] = lambda line: None,
    ):
        """Creates the gateway's folders and starts its threads.

        Args:
          database: Database of the gateway's state.
          folder: Path of the folder of the gateway's files.
          secret: Secret from which devices' keys are derived.
          settings: Settings of the server that devices connect to.
          on_progress: Called with a line of text about each error of the server.
        """
        self.database = database
        self.folder = folder
        self.secret = secret
        self.training = settings.training
        self.max_staleness = settings.max_staleness
        self.max_devices = settings.max_devices
        self.metrics = Metrics()
        self.limiter = Limiter(
            settings.requests_per_hour,
            max(60, int(settings.requests_per_hour / 10)),
            time.monotonic,
        )
        update_files.make_folders(folder)
        self.checks = WorkerThreads(_CHECKS)
        self.threads = WorkerThreads(_THREADS)
        self.reads = GroupedReads(database)
        self.writes = GroupedWrites(database)
        # Handlers of requests in progress.
        self.under_way: weakref.WeakSet[Handler] = weakref.WeakSet()
        # Memory budget of incoming bodies.
        self.memory_budget = MemoryBudget(HELD_BYTES)
        self._pace = settings.pace
        self._rng = random.Random()
        self._active, self._counted = 0, float("-inf")
        self._on_progress = on_progress
        self._count_active()

    def wait_seconds(self) -> int:
        """Draws the number of seconds until a device's next check-in."""
        if time.monotonic() - self._counted > _COUNT_SECONDS:
            self._counted = time.monotonic()
            # Counting a million devices takes longer than a request may wait.
            self.threads.submit(self._count_active)
        return self._pace.wait_seconds(self._active, self._rng)

    def _count_active(self) -> None:
        try:
            with self.database.read() as connection:
                self._active = devices.count_active(connection, time.time())
        except UNAVAILABLE as error:
            self.on_trouble(error)

    def on_trouble(self, error: BaseException) -> None:
        """Reports an error to the operator; the client's answer omits its details."""
        self._on_progress(f"could not serve: {type(error).__name__}: {error}")

    def application(self) -> tornado.web.Application:
        """Returns the application with the routes of the protocol."""
        arguments = {"gateway": self}
        routes = [
            (r"/health", device_handlers.Health),
            (r"/v1/enrol", device_handlers.Enrol),
            (r"/v1/check-in", device_handlers.CheckIn),
            (r"/v1/models/([0-9a-f]{64})", device_handlers.Model),
            (r"/v1/tasks/([0-9a-f]{32})/updates/([0-9a-f]{64})", device_handlers.Update),
            (r"/v1/status", device_handlers.Status),
        ]
        return tornado.web.Application(
            [(path, handler, arguments) for path, handler in routes],
            default_handler_class=UnknownPath,
            default_handler_args=arguments,
            log_function=lambda handler: None,
        )

    def close(self) -> None:
        """Stops the threads and closes the connections to the database."""
        self.checks.close()
        self.threads.close()
        self.reads.close()
        self.writes.close()
        self.database.close()


def http_server(
    application: tornado.web.Application, tls: ssl.SSLContext | None
) -> tornado.httpserver.HTTPServer:
    """Returns a server that closes idle connections."""
    return tornado.httpserver.HTTPServer(
        application,
        ssl_options=tls,
        idle_connection_timeout=_IDLE_SECONDS,
        body_timeout=_BODY_SECONDS,
        max_body_size=_NO_BOUND,
        max_header_size=16 * 1024,
        chunk_size=_CHUNK_BYTES,
    )


def listen(server: tornado.httpserver.HTTPServer, address: Address, flag: str = "address") -> int:
    """Starts listening on an address.

    Args:
      server: Server that answers requests.
      address: Address to listen on.
      flag: Name of the address's flag, for the error message.

    Returns:
      The port that the server listens on.

    Raises:
      ValueError: If the address cannot be listened on.
    """
    try:
        sockets = tornado.netutil.bind_sockets(address.port, address.host)
    except OSError as error:
        raise ValueError(
            f"Expected an address of this machine that is free, received {address.host}:"
            f"{address.port} ({error.strerror or error}). Choose another --{flag}."
        ) from error
    server.add_sockets(sockets)
    return sockets[0].getsockname()[1]


async def run_until_stopped(server: tornado.httpserver.HTTPServer, gateway: Gateway) -> None:
    """Serves until SIGINT or SIGTERM, then lets requests in progress finish.

    Args:
      server: Server that answers devices.
      gateway: Gateway that the server's handlers use.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await end(server, gateway)


async def end(server: tornado.httpserver.HTTPServer, gateway: Gateway) -> None:
    """Stops accepting connections, and closes existing ones once their requests have finished.

    Requests that take longer than `END_SECONDS` are cut off.
    """
    server.stop()
    until = time.monotonic() + END_SECONDS
    while gateway.under_way and time.monotonic() < until:
        await asyncio.sleep(_END_POLL_SECONDS)
    await server.close_all_connections()


@contextlib.contextmanager
def serving_on_loopback(
    application: tornado.web.Application, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Serves in a separate thread during the `with` block.

    Args:
      application: The routes that are served, such as `Gateway.application()`.
      tls: TLS context for HTTPS; by default the server speaks plain HTTP.

    Yields:
      The URL of the server, on a free port of the loopback interface.
    """
    started = concurrent.futures.Future()

    async def serve():
        server = http_server(application, tls)
        stopped = asyncio.Event()
        try:
            address = Address("127.0.0.1", 0)
            url = address.url("https" if tls else "http", listen(server, address))
            started.set_result((url, asyncio.get_running_loop(), stopped))
            await stopped.wait()
        except Exception as error:
            started.set_exception(error)
        finally:
            server.stop()
            await server.close_all_connections()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        url, loop, stopped = started.result()
        try:
            yield url
        finally:
            loop.call_soon_threadsafe(stopped.set)
    finally:
        thread.join()
