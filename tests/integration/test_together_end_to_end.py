"""A supernet, `fedsup serve` with TLS, phones of the app and of Python, rounds, rollback."""

import re
import subprocess

import pytest
from android import BUILD, REASON, examples_file
from commands import fedsup
from serving import Server

from fedsup_tf.architecture import Architecture
from tff_programs.programs.checkpoint import load_trained

pytestmark = [pytest.mark.slow, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

TIERS = ("smallest", "middle", "largest")
PYTHON_PHONES = 10
ROUNDS = 2


def app(folder, link, tier, examples):
    """Starts a phone of the app's classes."""
    program = [BUILD, "java", "org.fedsup.demo.FederatedPhone"]
    arguments = [folder, link, tier, examples, str(ROUNDS)]
    return subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, text=True)


def told(phone):
    """Report of a phone of the app: round, accuracy as it came, loss before and after."""
    printed, _ = phone.communicate(timeout=500)
    assert phone.returncode == 0, printed
    lines = re.findall(r"^sent (\d+) (\S+) (\S+) (\S+)$", printed, re.MULTILINE)
    return [(int(number), *map(float, scores)) for number, *scores in lines]


def test_phones_of_the_app_and_of_python_take_part_in_rounds(tmp_path, trained_path):
    subprocess.run([BUILD, "compile"], check=True)
    middle = tmp_path / "middle.json"
    middle.write_text(Architecture((16,), (1,), (3,)).to_json())
    trained = load_trained(trained_path)
    folder = tmp_path / "gateway"
    server = Server(
        trained_path, folder, "--make_certificates", f"--goal={len(TIERS) + PYTHON_PHONES}",
        "--over_asking=2", f"--tiers=smallest,{middle},largest", "--epochs=3",
    )  # fmt: skip
    try:
        first = int(server.wait_for(r"^round (\d+) open")[1])
        link = re.search(r"^fedsup://\S+", "".join(server.printed), re.MULTILINE)[0]
        examples = [
            examples_file(tmp_path / f"{number}.bin", *trained.data.train_examples(number))
            for number in range(len(TIERS))
        ]
        foreign = app(
            tmp_path / "foreign", link[:-1] + "01"[link[-1] == "0"], "smallest", examples[0]
        )
        refused, _ = foreign.communicate(timeout=300)
        assert "of the server's link, received another one. Nothing was sent." in refused
        phones = [
            app(tmp_path / tier, link, tier, own) for tier, own in zip(TIERS, examples, strict=True)
        ]
        command = fedsup(
            "phones", f"--server={link}", f"--out={tmp_path / 'phones'}", "--processes=2",
            f"--clients={PYTHON_PHONES}", f"--rounds={ROUNDS}",
        )  # fmt: skip
        subprocess.run(command, check=True, timeout=500)
        scores = [told(phone) for phone in phones]
        server.wait_for(rf"^round {first + ROUNDS} open")
        back = fedsup("rollback", f"--out={folder}", f"--round={first}")
        subprocess.run(back, check=True, timeout=300)
    finally:
        server.end()
    printed = "".join(server.printed)
    assert printed.count(f"{len(TIERS) + PYTHON_PHONES} updates used, 0 left out") == ROUNDS, (
        printed
    )
    for rounds in scores:
        assert [number for number, *_ in rounds] == [first, first + 1]
        (_, _, came, _), (_, _, came_next, _) = rounds
        assert came_next < came, "the second round's model reads the phone's digits better"
        assert all(trained < received for _, _, received, trained in rounds)
