"""Tests of scoring candidates on clients, of a search's images, and of the search program."""

import csv

import numpy as np
import pytest

from fedsup_tf.architecture import Architecture
from fedsup_tf.data.datasets import load_dataset
from fedsup_tf.data.preprocessing import Preprocessing
from fedsup_tf.search.cost_parts import parts_of_space
from fedsup_tf.search.latency import Latency, LatencyTable, Measurement
from fedsup_tf.space import SearchSpace
from fedsup_tf.stage import Stage
from fedsup_tf.supernet import Supernet
from tff_programs.learning import evaluation
from tff_programs.learning.evaluation import CandidateEvaluation, Examples, halve_held_out
from tff_programs.programs.checkpoint import load_trained
from tff_programs.programs.subnet_evaluation import calibrated_accuracy

# With every kind of elastic dimension, so that candidates' tensors differ in every axis.
SPACE = SearchSpace(
    "tiny",
    (8, 8, 1),
    10,
    8,
    1,
    (Stage("a", (8, 16), (1,), (3, 5), 2), Stage("b", (16, 24), (1, 2), (3,), 2)),
)
PREPROCESSING = Preprocessing((4.0,), (6.0,))


@pytest.fixture(scope="module")
def supernet():
    """Returns a supernet without zero branches, so that its subnets answer differently."""
    net = Supernet(SPACE)
    rng = np.random.default_rng(0)
    net.assign_weights(
        {
            name: rng.normal(0, 0.5, shape).astype(np.float32)
            for name, shape in net.weight_shapes.items()
        }
    )
    return net


def examples(number, seed):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 17, (number, *SPACE.image_shape)).astype(np.uint8)
    return Examples(images, rng.integers(0, 10, number).astype(np.int32))


def plain_share(supernet, architecture, clients, batch_size):
    correct = 0
    for images, labels in clients:
        for begin in range(0, len(labels), batch_size):
            batch = PREPROCESSING.normalize(images[begin : begin + batch_size])
            guess = supernet(batch, architecture).numpy().argmax(1)
            correct += int((guess == labels[begin : begin + batch_size]).sum())
    return correct / sum(len(labels) for _, labels in clients)


# `execution` sets the worker that runs the rounds.
@pytest.mark.usefixtures("execution")
def test_every_client_counts_for_every_candidate(supernet, monkeypatch):
    clients = [examples(number, seed) for seed, number in enumerate((30, 7, 0, 12))]
    # Five candidates, in two rounds of up to three.
    candidates = [SPACE.at(index) for index in (1, 6, 11, 4, SPACE.size - 1)]
    weights = {name: value.numpy() for name, value in supernet.weights_by_name().items()}
    expected = [plain_share(supernet, one, clients, 8) for one in candidates]
    assert len(set(expected)) > 2
    whole = CandidateEvaluation(SPACE, PREPROCESSING, weights, 8, 3)
    assert whole.accuracies(candidates, clients) == expected
    # Splitting a round into parts of one client gives the same sums.
    monkeypatch.setattr(evaluation, "BYTES_OF_SUBNETS", 1)
    parts = CandidateEvaluation(SPACE, PREPROCESSING, weights, 8, 3)
    assert parts.accuracies(candidates[:2], clients) == expected[:2]
    assert whole.accuracies([], clients) == []
    with pytest.raises(ValueError, match="Expected clients with examples"):
        whole.accuracies(candidates, clients[2:3])


@pytest.mark.slow
def test_the_type_of_the_round_is_the_one_it_states():
    evaluate = evaluation.build_candidate_evaluation(SPACE, PREPROCESSING, 8, 4)
    result = str(evaluate.type_signature.result)
    assert result == "<correct=int32[4]@SERVER,examples=int32@SERVER>" or (
        result == "<correct=int32[4],examples=int32>@SERVER"
    )
    assert "architectures=int32[4]" in str(evaluate.type_signature.parameter)


def test_the_halves_divide_each_class_evenly_and_follow_the_seed():
    labels = np.random.default_rng(0).integers(0, 7, 501)
    halves = [halve_held_out(labels, seed) for seed in (0, 0, 1)]
    for is_for_search in halves:
        for label in range(7):
            count = np.sum(labels == label)
            assert np.sum(is_for_search[labels == label]) in (count // 2, (count + 1) // 2)
        assert abs(int(is_for_search.sum()) - 250) <= 4
    assert np.array_equal(halves[0], halves[1])
    assert not np.array_equal(halves[0], halves[2])


# ---------------------------------------------------------------- the program


RUN = (
    "--max_infer_ms=7",
    "--max_parameters=1400",
    "--generations=2",
    "--population=3",
    "--parents=2",
    "--clients_per_round=4",
    "--candidates_per_round=2",
)
REFUSED = {
    "--max_parameters=10": "smallest feasible values are: parameters 850 (limit 10)",
    "--max_train_ms=3": "needs a latency table",
    "--max_macs=0": "max_macs",
    "--clients_per_round=7": "at most 6, the number of clients",
    "--latency_table=none.json": "found none",
    "--out=": "Expected --out=FOLDER",
}


@pytest.fixture(scope="module")
def runs(supernet, tmp_path_factory, run_programs):
    """Returns output and errors of two runs with one seed, and of calls that must be refused."""
    folder = tmp_path_factory.mktemp("search")
    dataset = load_dataset("digits")
    information = {
        "settings": {
            "dataset": "digits",
            "partition": "shard",
            "clients": 6,
            "classes_per_client": 5,
            "beta": 0.1,
            "seed": 3,
        },
        "preprocessing": dataset.preprocessing.to_json(),
        "tiers": [["smallest", SPACE.smallest().to_json()], ["largest", SPACE.largest().to_json()]],
    }
    supernet.save_checkpoint(folder / "supernet.safetensors", information)
    supernet.save_checkpoint(folder / "untrained.safetensors")
    measured = Measurement(1, 1, 0, 0.0, 0.0)
    rows = {part: Latency(1.0 + part.depth, 3.0 + part.width) for part in parts_of_space(SPACE)}
    LatencyTable(SPACE, rows, "a phone", measured, measured).save(folder / "table.json")
    path = str(folder / "supernet.safetensors")
    table = f"--latency_table={folder / 'table.json'}"
    calls = {
        name: [path, f"--out={folder / name}", table, *RUN, "--nocalibrated"]
        for name in ("first", "second")
    }
    every = "--clients_per_round=6"
    calls["calibrated"] = [path, f"--out={folder / 'calibrated'}", table, *RUN, every]
    calls["other seed"] = [*calls["first"][:1], f"--out={folder / 'x'}", table, *RUN, "--seed=5"]
    calls |= {flag: [path, f"--out={folder / 'refused'}", flag] for flag in REFUSED}
    calls["untrained"] = [str(folder / "untrained.safetensors"), f"--out={folder / 'refused'}"]
    told = run_programs([["search", *arguments] for arguments in calls.values()])
    results = ({"printed": printed, "error": error} for printed, error in told)
    return folder, dict(zip(calls, results, strict=True))


@pytest.mark.parametrize("run", ["first", "calibrated"])
def test_the_program_searches_and_keeps_what_it_found(runs, run):
    folder, told = runs
    assert not told[run]["error"]
    lines = told[run]["printed"].splitlines()
    assert sum(line.startswith("  generation") for line in lines) == 4
    table = {line.split("  ")[0]: line for line in lines}
    assert {"evolution", "random search", "smallest", "largest"} <= table.keys()
    assert "!" in table["largest"]
    assert "!" not in table["evolution"]
    best = Architecture.from_json((folder / run / "architecture.json").read_text())
    assert str(best) in table["evolution"]
    assert (folder / run / "front.png").read_bytes().startswith(b"\x89PNG")
    with open(folder / run / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    nets = [Architecture.from_json(row["architecture"]) for row in rows]
    assert best in nets
    again = [float(row["finalist_accuracy"] or 0) for row in rows]
    assert any(again) == (run == "calibrated")
    if run == "calibrated":
        evolved = [x for x, row in zip(again, rows, strict=True) if "evolution" in row["found_by"]]
        assert again[nets.index(best)] == max(evolved)
    for row in rows:
        assert float(row["infer_latency_ms"]) <= 7
        assert int(row["parameters"]) <= 1400
        assert row["fronts"] or row["finalist_accuracy"]
        assert row["found_by"] in ("evolution", "random", "evolution random")


def test_calibrated_candidates_are_scored_as_they_are_deployed(runs):
    folder, told = runs
    trained = load_trained(folder / "supernet.safetensors")
    accuracy = calibrated_accuracy(trained)
    is_for_search = halve_held_out(trained.data.dataset.test_labels, 3)
    test = (
        trained.data.dataset.test_images[~is_for_search],
        trained.data.dataset.test_labels[~is_for_search],
    )
    (line,) = (
        line for line in told["calibrated"]["printed"].splitlines() if line.startswith("largest ")
    )
    expected = 100 * accuracy(trained.weights, SPACE.largest(), *test)
    assert float(line.split()[-2]) == pytest.approx(expected, abs=0.06)
    kept = calibrated_accuracy(trained, classifier_penalty=None)
    share = kept(trained.weights, SPACE.largest(), *test)
    assert expected > 100 * share
    # A private training's classifiers are kept in files too.
    settings = {**trained.information["settings"], "noise_multiplier": 1.0}
    private = trained._replace(information={**trained.information, "settings": settings})
    accuracy = calibrated_accuracy(private)
    assert accuracy(trained.weights, SPACE.largest(), *test) == share


def test_the_same_seed_gives_the_same_files(runs):
    folder, told = runs
    for name in ("architecture.json", "front.csv"):
        first, second = ((folder / run / name).read_bytes() for run in ("first", "second"))
        assert first == second
    generations = [
        [line.split(" | ")[:4] for line in told[run]["printed"].splitlines() if " | " in line]
        for run in ("first", "second", "other seed")
    ]
    assert generations[0] == generations[1]
    assert generations[0] != generations[2]


@pytest.mark.parametrize("flag", REFUSED)
def test_a_search_that_cannot_be_is_refused_in_words(runs, flag):
    folder, told = runs
    assert REFUSED[flag] in told[flag]["error"]
    assert not (folder / "refused").exists()


def test_a_supernet_that_no_training_wrote_is_refused(runs):
    _, told = runs
    assert "expected the data set of a training in it" in told["untrained"]["error"]
