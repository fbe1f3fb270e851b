"""Tests of the flags of `fedsup train` that configure the aggregation of updates."""

import csv
import json

import commands
import pytest
from absl import flags

from fedsup_tf.presets import digits_small
from tff_programs.programs import train
from tff_programs.programs.flags.aggregation_flags import privacy_from_flags
from tff_programs.programs.flags.program_flags import parse_flags
from tff_programs.simulation.round_plan import Assignment
from tff_programs.simulation.tiers import default_tiers

PRIVATE = ["--noise_multiplier=0.5", "--clipping=1", "--weighting=uniform"]
# Error messages and the calls that cause them.
REFUSED = {
    "no noise. Without noise, nothing is private": ["--max_epsilon=3"],
    "received --clipping=adaptive": ["--noise_multiplier=1", "--clipping=adaptive"],
    "expected --weighting=uniform, received --weighting=examples": PRIVATE[:2],
    "--noise_multiplier and --poisoned": [*PRIVATE, "--poisoned=0.1"],
    "expected neither --over_asked nor --round_deadline": [*PRIVATE, "--over_asked=1"],
    "adaptive --zeroing would tell": [*PRIVATE, "--zeroing=adaptive"],
    "none, adaptive or a finite norm above 0 such as 1.5, received 'much'": ["--clipping=much"],
    "finite norm above 0": ["--zeroing=-1"],
    "a finite number from 0 and below 0.5, received '0.5'": ["--poisoned=0.5"],
    "a finite number above 0 and below 1, received '1'": [
        *PRIVATE,
        "--delta=1",
    ],
    "The budget holds 0 rounds": [*PRIVATE, "--max_epsilon=1"],
}
AGGREGATIONS = {
    "private": PRIVATE,
    "robust": ["--poisoned=0.3", "--compression=8bit"],
    "adaptive": ["--clipping=adaptive", "--zeroing=9"],
}
FEW = ["--rounds=2", "--clients_per_round=3", "--sandwich=1"]
RUNS = {name: [*FEW, *more] for name, more in AGGREGATIONS.items()}
RUNS["one net"] = ["--rounds=1", "--clients_per_round=2", "--algorithm=fedavg"]
RUNS["one net"] += ["--architecture=smallest"]
# Small to compile. In the wide space, the ranges added by 8-bit compression are relatively small.
SPACES = {"tiny": commands.SPACE, "wide": {**commands.SPACE, "stem_width": 16}}
SPACES["wide"]["stages"] = [{**commands.SPACE["stages"][0], "widths": [128, 256]}]
RUNS = {
    name: [f"--space={'wide' if name == 'robust' else 'tiny'}.json", *more]
    for name, more in RUNS.items()
}


@pytest.fixture(scope="module")
def told(tmp_path_factory, run_programs):
    """Returns the folder of all runs, and the output and error of each call by its key."""
    folder = tmp_path_factory.mktemp("runs")
    for name, space in SPACES.items():
        (folder / f"{name}.json").write_text(json.dumps(space))
    calls = {
        key: ["train", f"--out={folder / 'refused'}", *flags] for key, flags in REFUSED.items()
    }
    calls |= {
        name: ["train", f"--out={folder / name}", "--clients=6", "--nocalibrated_accuracy", *flags]
        for name, flags in RUNS.items()
    }
    return folder, dict(zip(calls, run_programs(list(calls.values()), folder), strict=True))


@pytest.mark.parametrize("expected", REFUSED)
def test_flags_that_exclude_each_other_are_refused(told, expected):
    folder, results = told
    assert expected in results[expected][1]
    assert not (folder / "refused").exists()


@pytest.mark.parametrize(
    ("more", "sampled"),
    [
        (["--algorithm=fedsup"], False),
        (["--algorithm=fedsup", f"--cohort_seed={10**38}"], True),
        # The weights show which subnets were trained, and so which tiers took part.
        (["--algorithm=e_fedsup", f"--cohort_seed={10**38}"], False),
        (["--algorithm=exclusive", f"--cohort_seed={10**38}"], False),
    ],
)
def test_privacy_counts_on_sampling_only_where_nothing_shows_who_took_part(more, sampled):
    options, _ = parse_flags(train.define_flags, ["train", *PRIVATE, "--seed=3", *more])
    space = digits_small()
    assignment = Assignment(
        space,
        default_tiers(space, 0),
        100,
        5,
        options.seed,
        cohorts="random",
        cohort_seed=options.cohort_seed,
    )
    account = privacy_from_flags(options, assignment)
    assert account.sampled == sampled
    assert ("must stay secret" in str(account)) == sampled


def test_a_cohort_seed_that_can_be_guessed_is_refused():
    with pytest.raises(flags.IllegalFlagValueError, match="cohort_seed"):
        parse_flags(train.define_flags, ["train", "--cohort_seed=7"])


def test_every_client_of_fedavg_sends_the_bytes_of_its_one_net(told):
    folder, results = told
    printed, error = results["one net"]
    assert not error
    rows = [line.split() for line in printed.splitlines() if line.endswith("kB")]
    assert len(rows) == 4
    (row,) = _metrics(folder / "one net")
    sent = float(row["bytes_down_per_client"]) + float(row["bytes_up_per_client"])
    assert {row[-2] for row in rows} == {f"{sent / 1000:.1f}"}


def test_a_private_run_tells_epsilon_and_others_what_they_did(told):
    folder, results = told
    printed = [results[name][0] for name in AGGREGATIONS if not results[name][1]]
    assert len(printed) == 3
    private, robust, adaptive = (_metrics(folder / name) for name in AGGREGATIONS)
    epsilons = [float(row["epsilon"]) for row in private]
    assert 0 < epsilons[0] < epsilons[1]
    assert f"epsilon {epsilons[1]:.3g}" in printed[0]
    assert [row["set_aside"] for row in robust] == ["1.0", "1.0"]
    assert all(0 < float(row["compression_error"]) < 0.1 for row in robust)
    # One byte per entry up, four bytes down.
    for row in robust:
        ratio = float(row["bytes_down_per_client"]) / float(row["bytes_up_per_client"])
        assert ratio == pytest.approx(4, rel=0.1)
    assert {"clipping_norm", "clipped", "zeroing_norm", "zeroed"} <= adaptive[0].keys()
    assert adaptive[0]["clipping_norm"] != adaptive[1]["clipping_norm"]


def _metrics(folder):
    with open(folder / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
