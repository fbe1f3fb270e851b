"""Rates of a `fedsup serve` for benchmarks/gateway.py, beside those of a plain Tornado handler."""

import concurrent.futures
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

# The yardstick: a handler that stores the body, and nothing else.
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
# Onto the disk before it answers; and without waiting for the disk.
YARDSTICKS = ("plain handler", "plain, no disk")


def timed(calls: list, threads: int, server) -> dict[str, float]:
    """Makes calls from threads, and measures them.

    Returns:
      How many a second, their p50 and p99 in ms, and the milliseconds that the processor works in
      the server for one, which depend less than the others on what else the machine does.
    """

    def run(call):
        begin = time.monotonic()
        call()
        return time.monotonic() - begin

    worked, begin = server.cpu_seconds(), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        seconds = sorted(pool.map(run, calls))
    rate = len(calls) / (time.monotonic() - begin)
    p50, p99 = (1e3 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    cpu_ms = 1e3 * (server.cpu_seconds() - worked) / len(calls)
    return {"per_second": rate, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu_ms}


class Plain:
    """A process of the plain handler."""

    def __init__(self, folder: pathlib.Path, name: str):
        """Starts it."""
        folder.mkdir()
        self._port = portpicker.pick_unused_port()
        how = "durable" if name == YARDSTICKS[0] else "at once"
        command = [sys.executable, "-c", PLAIN, str(self._port), str(folder), how]
        self._process = subprocess.Popen(command)

    def store(self, body: bytes) -> None:
        """Sends a body, named by its hash as an update is."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("PUT", f"/{hashlib.sha256(body).hexdigest()}", body)
        if connection.getresponse().status != 201:
            raise RuntimeError("The plain handler refused a body.")
        connection.close()

    def cpu_seconds(self) -> float:
        """Returns the processor's seconds of the process."""
        return cpu_seconds(self._process)

    def end(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()


def run_throughput(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Measures check-ins and updates, and the plain handler beside."""
    count = options.requests
    flags = [f"--goal={2 * count}", "--over_asking=100", "--noredraw", "--test_batch_size=0"]
    server = KilledServer(supernet, folder / "fast", portpicker.pick_unused_port(), flags)
    address = ServerAddress(server.url, server.token)
    models = folder / "fast_models"
    models.mkdir()
    devices = [Federation(address) for _ in range(count)]
    plain = {name: Plain(folder / name.replace(" ", "_"), name) for name in YARDSTICKS}
    try:
        while server.number() is None:
            time.sleep(0.2)
        for device in devices:
            device.enrol()
        answers = {}

        def check_in(number):
            answers[number] = devices[number].check_in(FIELDS)

        check_ins = timed([lambda n=n: check_in(n) for n in range(count)], options.threads, server)
        updates = Updates(models)
        bodies = []
        for number, device in enumerate(devices):
            task = answers[number]["task"]
            path = models / f"{task['model']}.tflite"
            if not path.exists():
                device.fetch_model(task["model"], task["model_bytes"], path)
            bodies.append((task["task"], updates.data(task, path, number + 1)))

        for device in devices:
            device.close()

        def send(number):
            devices[number].send_update(*bodies[number])
            devices[number].close()

        sent = timed([lambda n=n: send(n) for n in range(count)], options.threads, server)
        kept = {
            name: timed([lambda b=b, p=p: p.store(b) for _, b in bodies], options.threads, p)
            for name, p in plain.items()
        }
    finally:
        for device in devices:
            device.close()
        for each in plain.values():
            each.end()
        server.end()
    size = sum(len(body) for _, body in bodies) / count
    for each in (sent, *kept.values()):
        each["megabytes_per_second"] = each["per_second"] * size / 1e6
    return {
        "update_bytes": size,
        "check-in": check_ins,
        "update": sent,
        **kept,
        "ratio": sent["per_second"] / kept[YARDSTICKS[0]]["per_second"],
        "ratio_without_disk": sent["per_second"] / kept[YARDSTICKS[1]]["per_second"],
        # What the processor alone would let the gateway reach.
        "cpu_ratio": kept[YARDSTICKS[0]]["cpu_ms"] / sent["cpu_ms"],
        "cpu_ratio_without_disk": kept[YARDSTICKS[1]]["cpu_ms"] / sent["cpu_ms"],
    }
