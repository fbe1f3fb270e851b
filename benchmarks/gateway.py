"""Lets a crowd of phones take part in a `fedsup serve` that is killed, and measures what it bears.

    uv run python benchmarks/gateway.py

1,000 simulated phones, which send prepared updates, take part in 20 rounds. Shares of them vanish,
come late, send damaged bytes, send twice, or send a hostile update. Ten times, at random moments,
the server is killed with `kill -9` and started again. In the end every update whose acceptance a
phone was told of is written down once, and the same updates merged again in a process that nobody
kills give the same supernet in each round, bit for bit.

Then devices check in and send updates as fast as they can, to the gateway and, of the same size, to
a plain Tornado handler that only stores the body. --folder then holds gateway.json and gateway.png.
The exit code is 1 if something does not hold.
"""

import argparse
import concurrent.futures
import hashlib
import http.client
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import portpicker
from gateway_phones import FIELDS, Crowd, Updates
from gateway_server import KilledServer, check_counts, repeat_rounds
from matplotlib.figure import Figure

from tflite.together.address import ServerAddress
from tflite.together.federation import Federation

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARES = {"vanish": 0.05, "late": 0.05, "damaged": 0.05, "replay": 0.02, "hostile": 0.02}
CODE = "from tff_programs.programs.cli import main; main()"
# The yardstick: a handler that stores the body, and nothing else.
PLAIN = """
import asyncio, os, sys, uuid
import tornado.httpserver, tornado.web
class Store(tornado.web.RequestHandler):
    def put(self):
        with open(os.path.join(sys.argv[2], uuid.uuid4().hex), "wb") as file:
            file.write(self.request.body)
        self.set_status(201)
async def main():
    application = tornado.web.Application([("/.*", Store)], log_function=lambda handler: None)
    application.listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""
INK, FAINT = "#22303c", "#3b6fb6"


def train(folder: pathlib.Path, space: str) -> pathlib.Path:
    """Trains a supernet for one round; returns its file."""
    out = folder / "trained"
    flags = ["--rounds=1", "--clients=6", "--clients_per_round=2", "--tiers=smallest,largest"]
    command = [sys.executable, "-c", CODE, "train", f"--space={space}", f"--out={out}", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out / "supernet.safetensors"


def run_rounds(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Runs rounds while the server is killed; returns what was found."""
    rng = random.Random(options.seed)
    flags = [f"--goal={options.goal}", "--noredraw", "--test_batch_size=0", "--over_asking=0.5"]
    flags += ["--check_in_seconds=2", "--check_ins_per_second=1e6", "--round_deadline=600"]
    flags += ["--task_seconds=30"]
    server = KilledServer(supernet, folder / "gateway", portpicker.pick_unused_port(), flags)
    models = folder / "models"
    models.mkdir()
    address = ServerAddress(server.url, server.token)
    begin, first, curve, killed = time.monotonic(), None, [], []
    last = int(0.9 * options.rounds * options.goal)
    moments = sorted(rng.randrange(1, last) for _ in range(options.kills))
    crowd = Crowd(address, options.phones, SHARES, models, options.threads)
    try:
        while first is None or server.number() < first + options.rounds:
            first = server.number() if first is None else first
            if crowd.failures:
                raise crowd.failures[0]
            accepted = crowd.accepted()
            curve.append((time.monotonic() - begin, accepted))
            server.measure()
            if moments and accepted >= moments[0]:
                # Anywhere in what the server is at.
                time.sleep(rng.uniform(0, 2))
                killed.append((time.monotonic() - begin, accepted))
                server.kill()
                moments.pop(0)
            time.sleep(0.2)
        crowd.stop()
    finally:
        server.end()
    if crowd.failures:
        raise crowd.failures[0]
    accepted = {task: hash_ for phone in crowd.phones for task, hash_ in phone.accepted.items()}
    counts = check_counts(folder / "gateway", accepted)
    closed, different, twice = repeat_rounds(server, folder / "again")
    return {
        "phones": options.phones,
        "rounds": closed,
        "kills": server.kills,
        "seconds": time.monotonic() - begin,
        "accepted": len(accepted),
        "faults": _sums(phone.faults for phone in crowd.phones),
        "refusals": _sums(phone.refusals for phone in crowd.phones),
        "counts": counts,
        "rounds_that_differ": different,
        "used_twice": twice,
        "server_megabytes": server.most_bytes / 1e6,
        "curve": curve,
        "killed": killed,
    }


def _sums(counts) -> dict[str, int]:
    total = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def timed(calls: list, threads: int) -> dict[str, float]:
    """Makes calls from threads; returns how many a second, and their p50 and p99 in ms."""

    def run(call):
        begin = time.monotonic()
        call()
        return time.monotonic() - begin

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        seconds = sorted(pool.map(run, calls))
    rate = len(calls) / (time.monotonic() - begin)
    p50, p99 = (1e3 * seconds[int(share * (len(seconds) - 1))] for share in (0.5, 0.99))
    return {"per_second": rate, "p50_ms": p50, "p99_ms": p99}


def run_throughput(options, supernet: pathlib.Path, folder: pathlib.Path) -> dict:
    """Measures check-ins and updates, and the plain handler beside."""
    count = options.requests
    flags = [f"--goal={2 * count}", "--over_asking=100", "--noredraw", "--test_batch_size=0"]
    server = KilledServer(supernet, folder / "fast", portpicker.pick_unused_port(), flags)
    address = ServerAddress(server.url, server.token)
    models = folder / "fast_models"
    models.mkdir()
    devices = [Federation(address) for _ in range(count)]
    plain_port, stored = portpicker.pick_unused_port(), folder / "stored"
    stored.mkdir()
    plain = subprocess.Popen([sys.executable, "-c", PLAIN, str(plain_port), str(stored)])
    try:
        while server.number() is None:
            time.sleep(0.2)
        for device in devices:
            device.enrol()
        answers = {}

        def check_in(number):
            answers[number] = devices[number].check_in(FIELDS)

        check_ins = timed([lambda n=n: check_in(n) for n in range(count)], options.threads)
        updates = Updates(models)
        bodies = []
        for number, device in enumerate(devices):
            task = answers[number]["task"]
            path = models / f"{task['model']}.tflite"
            if not path.exists():
                device.fetch_model(task["model"], task["model_bytes"], path)
            bodies.append((task["task"], updates.data(task, path, number + 1)))

        def store(body):
            connection = http.client.HTTPConnection("127.0.0.1", plain_port, timeout=60)
            connection.request("PUT", f"/{hashlib.sha256(body).hexdigest()}", body)
            if connection.getresponse().status != 201:
                raise RuntimeError("The plain handler refused a body.")
            connection.close()

        for device in devices:
            device.close()

        def send(number):
            devices[number].send_update(*bodies[number])
            devices[number].close()

        sent = timed([lambda n=n: send(n) for n in range(count)], options.threads)
        kept = timed([lambda b=b: store(b) for _, b in bodies], options.threads)
    finally:
        for device in devices:
            device.close()
        plain.terminate()
        plain.wait()
        server.end()
    size = sum(len(body) for _, body in bodies) / count
    for each in (sent, kept):
        each["megabytes_per_second"] = each["per_second"] * size / 1e6
    return {
        "update_bytes": size,
        "check-in": check_ins,
        "update": sent,
        "plain handler": kept,
        "ratio": sent["per_second"] / kept["per_second"],
    }


def draw(path: pathlib.Path, rounds: dict, throughput: dict) -> None:
    """Draws accepted updates over time with the kills, and the rates."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.plot(*zip(*rounds["curve"], strict=True), color=FAINT, label="accepted updates")
    if rounds["killed"]:
        left.plot(*zip(*rounds["killed"], strict=True), "x", color="#c8504f", label="kill -9")
    left.set(xlabel="seconds", title=f"{rounds['phones']:,} phones, {rounds['rounds']} rounds")
    left.legend(frameon=False)
    names = ("plain handler", "update", "check-in")
    right.barh(names, [throughput[name]["per_second"] for name in names], color=FAINT)
    right.set(xlabel="a second", title=f"updates of {throughput['update_bytes'] / 1e3:,.0f} kB")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    figure.savefig(path, dpi=150)


def faults(rounds: dict, expected_rounds: int) -> list[str]:
    """Returns what does not hold."""
    wrong = [name for name in ("lost", "unknown", "other") if rounds["counts"][name]]
    wrong += [name for name in ("rounds_that_differ", "used_twice") if rounds[name]]
    return wrong + (["too few rounds"] if rounds["rounds"] < expected_rounds else [])


def main() -> None:
    """Runs both parts, prints the tables and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phones", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--goal", type=int, default=200, help="Updates of a round.")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--threads", type=int, default=32, help="Phones at work at once.")
    parser.add_argument("--requests", type=int, default=1000, help="Of the throughput's parts.")
    parser.add_argument("--space", default="digits_small", help="The supernet's search space.")
    parser.add_argument("--supernet", help="A trained one's file, instead of --space.")
    parser.add_argument("--seed", type=int, default=0, help="Decides the moments of the kills.")
    parser.add_argument("--folder", default="runs/gateway", help="Of the table and the picture.")
    options = parser.parse_args()
    out = pathlib.Path(options.folder)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gateway-") as temporary:
        folder = pathlib.Path(temporary)
        supernet = pathlib.Path(options.supernet or train(folder, options.space))
        rounds = run_rounds(options, supernet, folder)
        throughput = run_throughput(options, supernet, folder)
    wrong = faults(rounds, options.rounds)
    result = {"rounds": rounds, "throughput": throughput, "wrong": wrong}
    (out / "gateway.json").write_text(json.dumps(result, indent=1))
    draw(out / "gateway.png", rounds, throughput)
    for name, value in rounds.items():
        if name not in ("curve", "killed"):
            print(f"{name:24}{value if not isinstance(value, float) else f'{value:.1f}'}")
    print(f"\n{'':16}{'a second':>12}{'p50 ms':>12}{'p99 ms':>12}{'MB/s':>12}")
    for name in ("check-in", "update", "plain handler"):
        row = throughput[name]
        size = f"{row['megabytes_per_second']:.1f}" if "megabytes_per_second" in row else "-"
        figures = "".join(f"{row[key]:12.1f}" for key in ("per_second", "p50_ms", "p99_ms"))
        print(f"{name:16}{figures}{size:>12}")
    print(f"updates of {throughput['update_bytes']:,.0f} bytes, ratio {throughput['ratio']:.2f}")
    print(f"does not hold: {', '.join(wrong)}" if wrong else "all holds")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
