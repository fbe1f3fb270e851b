"""Throughput of `fedsup serve` compared with a plain Tornado handler, for benchmarks/gateway.py."""

import concurrent.futures
import functools
import hashlib
import http.client
import pathlib
import subprocess
import sys
import time

import portpicker
from gateway_phones import FIELDS, Updates
from gateway_server import KilledServer, cpu_seconds

from tflite.together.address import ServerAddress
from tflite.together.federation import Federation

# Baseline: a handler that only stores the body.
PLAIN = """
import asyncio, os, sys, uuid
import tornado.httpserver, tornado.web
folder = sys.argv[2]
descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
class Store(tornado.web.RequestHandler):
    def put(self):
        with open(os.path.join(folder, uuid.uuid4().hex), "wb") as file:
            file.write(self.request.body)
            if sys.argv[3] == "durable":
                file.flush()
                os.fsync(file.fileno())
                os.fsync(descriptor)
        self.set_status(201)
async def main():
    application = tornado.web.Application([("/.*", Store)], log_function=lambda handler: None)
    application.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""
# The first one flushes to disk before it answers; the second one does not.
YARDSTICKS = ("plain handler", "plain, no disk")


def timed(calls: list, threads: int, servers: list) -> dict[str, float]:
    """Runs calls in threads and measures them.

    Returns:
      The number of calls per second, the p50 and p99 latencies in ms, and the CPU time of the
      servers per call in ms, which depends least on other load on the machine.
    """

    def run(call):
        begin = time.monotonic()
        call()
        return time.monotonic() - begin

    worked, begin = sum(server.cpu_seconds() for server in servers), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        seconds = sorted(pool.map(run, calls))
    rate = len(calls) / (time.monotonic() - begin)
    p50, p99 = (1e3 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    worked = sum(server.cpu_seconds() for server in servers) - worked
    return {"per_second": rate, "p50_ms": p50, "p99_ms": p99, "cpu_ms": 1e3 * worked / len(calls)}


class Plain:
    """A process of the plain handler."""

    def __init__(self, folder: pathlib.Path, name: str):
        """Starts the process."""
        folder.mkdir()
        self._port = portpicker.pick_unused_port()
        how = "durable" if name == YARDSTICKS[0] else "at once"
        command = [sys.executable, "-c", PLAIN, str(self._port), str(folder), how]
        self._process = subprocess.Popen(command)

    def store(self, body: bytes) -> None:
        """Sends a body under its hash, like an update."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("PUT", f"/{hashlib.sha256(body).hexdigest()}", body)
        if connection.getresponse().status != 201:
            raise RuntimeError("The plain handler refused a body.")
        connection.close()

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the process in seconds."""
        return cpu_seconds(self._process)

    def end(self) -> None:
        """Stops the process."""
        self._process.terminate()
        self._process.wait()


class Load:
    """Devices, assigned to the servers in turn, that each check in and send one update."""

    def __init__(self, servers: list[KilledServer], count: int, threads: int, models: pathlib.Path):
        """Enrols `count` devices; `models` is the folder for the models that they fetch."""
        self._servers, self._threads, self._models = servers, threads, models
        models.mkdir(exist_ok=True)
        addresses = [ServerAddress(server.url, server.token) for server in servers]
        self._devices = [Federation(addresses[n % len(addresses)]) for n in range(count)]
        self._tasks: dict[int, dict] = {}
        self.bodies: list[bytes] = []
        for device in self._devices:
            device.enrol()
            device.close()

    def check_in(self) -> dict[str, float]:
        """Lets all devices check in and prepares their updates; returns the result of `timed`."""

        def check_in(number):
            self._tasks[number] = self._devices[number].check_in(FIELDS)["task"]
            self._devices[number].close()

        found = self._timed(check_in)
        updates = Updates(self._models)
        for number, device in enumerate(self._devices):
            task = self._tasks[number]
            path = self._models / f"{task['model']}.tflite"
            if not path.exists():
                device.fetch_model(task["model"], task["model_bytes"], path)
                device.close()
            self.bodies.append(updates.data(task, path, number + 1))
        return found

    def send(self) -> dict[str, float]:
        """Lets all devices send their updates; returns the result of `timed`."""

        def send(number):
            self._devices[number].send_update(self._tasks[number]["task"], self.bodies[number])
            self._devices[number].close()

        return self._timed(send)

    def _timed(self, call) -> dict[str, float]:
        calls = [functools.partial(call, number) for number in range(len(self._devices))]
        return timed(calls, self._threads, self._servers)


def run_throughput(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Measures check-ins and updates, and the plain handler for comparison."""
    server = _server(options, supernet, folder / "fast")
    plain = {name: Plain(folder / name.replace(" ", "_"), name) for name in YARDSTICKS}
    try:
        _wait_for_round(server)
        load = Load([server], options.requests, options.threads, folder / "fast_models")
        check_ins, sent = load.check_in(), load.send()
        kept = {
            name: timed(
                [functools.partial(p.store, body) for body in load.bodies], options.threads, [p]
            )
            for name, p in plain.items()
        }
    finally:
        for each in plain.values():
            each.end()
        server.end()
    size = sum(map(len, load.bodies)) / len(load.bodies)
    for each in (sent, *kept.values()):
        each["megabytes_per_second"] = each["per_second"] * size / 1e6
    return {
        "update_bytes": size,
        "check-in": check_ins,
        "update": sent,
        **kept,
        "ratio": sent["per_second"] / kept[YARDSTICKS[0]]["per_second"],
        "ratio_without_disk": sent["per_second"] / kept[YARDSTICKS[1]]["per_second"],
        # Ratios that the gateway would reach if only CPU time mattered.
        "cpu_ratio": kept[YARDSTICKS[0]]["cpu_ms"] / sent["cpu_ms"],
        "cpu_ratio_without_disk": kept[YARDSTICKS[1]]["cpu_ms"] / sent["cpu_ms"],
    }


def run_processes(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Measures first one and then two server processes on the database of `--database`."""
    shared, models = folder / "shared", folder / "shared_models"
    servers = [_server(options, supernet, shared, database=options.database)]
    found = {}
    try:
        _wait_for_round(servers[0])
        for number in (1, 2):
            if number == 2:
                servers.append(_server(options, supernet, shared, ["--role=web"], options.database))
            load = Load(servers, options.requests, options.threads, models)
            found[number] = {"check-in": load.check_in(), "update": load.send()}
    finally:
        for server in servers:
            server.end()
    return {
        **{f"{kind}, {number}": row for number in found for kind, row in found[number].items()},
        **{
            f"ratio of {kind}s": found[2][kind]["per_second"] / found[1][kind]["per_second"]
            for kind in ("check-in", "update")
        },
    }


def _server(options, supernet, folder, flags=(), database=None) -> KilledServer:
    count = 2 * options.requests
    own = [f"--goal={2 * count}", "--over_asking=100", "--noredraw", "--test_batch_size=0"]
    port = portpicker.pick_unused_port()
    return KilledServer(supernet, folder, port, [*own, *flags], database)


def _wait_for_round(server: KilledServer) -> None:
    while server.number() is None:
        time.sleep(0.2)
