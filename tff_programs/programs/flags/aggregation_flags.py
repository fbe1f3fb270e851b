"""Flags of `fedsup train` that decide how the server aggregates the clients' updates."""

import secrets

import tensorflow_federated as tff

from fedsup_tf import slicing
from fedsup_tf.supernet import Supernet
from tff_programs.aggregators import clipping, overlap_mean
from tff_programs.aggregators.compression import EightBitUpload
from tff_programs.aggregators.privacy import (
    MAX_NOISE_MULTIPLIER,
    PrivacyAccount,
    PrivateOverlapMeanFactory,
)
from tff_programs.aggregators.robust import RobustOverlapMeanFactory
from tff_programs.programs.flags.number_flags import FiniteFloatParser
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags
from tff_programs.simulation.round_plan import Assignment


def define_aggregation_flags(define: FlagDefiner) -> None:
    """Defines the flags for the server's aggregation."""
    define.enum(
        "aggregation",
        "coverage",
        overlap_mean.DIVISORS,
        "Averaging of overlapping slices: over the clients that trained an entry (coverage), or "
        "over all clients (diluted).",
    )
    define.enum(
        "weighting",
        "examples",
        slicing.WEIGHTINGS,
        "Weight of a client: its number of examples, or 1.",
    )
    define.string(
        "clipping",
        "none",
        "Maximum L2 norm of an update: none, a number, or adaptive for the 80th percentile of the "
        "clients' norms.",
    )
    define.string(
        "zeroing",
        "none",
        "L2 norm above which an update is replaced by zeros: none, a number, or adaptive for one "
        "far above the clients' norms.",
    )
    define.enum(
        "compression",
        "none",
        ["none", "8bit"],
        "Encoding of updates: floats, or 8 bits per entry.",
    )
    define.float(
        "poisoned",
        0.0,
        "Share of a round's clients that may be poisoned; above 0, the updates farthest from the "
        "others are set aside.",
        lower_bound=0,
        below=0.5,
    )
    define.float(
        "noise_multiplier",
        0.0,
        "Differential privacy: standard deviation of the noise on sums, relative to the norm of "
        "--clipping.",
        lower_bound=0,
        upper_bound=MAX_NOISE_MULTIPLIER,
    )
    define.float(
        "delta",
        None,
        "Delta of (epsilon, delta); by default 0.1 divided by the number of clients.",
        above=0,
        below=1,
    )
    define.float(
        "max_epsilon", None, "Privacy budget: a run that would cost more is refused.", above=0
    )
    define.integer(
        "noise_seed",
        None,
        "Seed of the privacy noise, for experiments: whoever knows it can subtract the noise, and "
        "whoever has the supernet can try small seeds. By default drawn by the system and kept in "
        "the run's state.",
        lower_bound=0,
    )

    define.integer(
        "cohort_seed",
        None,
        "Secret random number of at least 39 digits that decides which clients a round asks. "
        "Epsilon is smaller if nobody can know who took part, which --algorithm=fedsup or fedavg "
        "requires too: where clients train different subnets, the weights show which subnets took "
        "part. Otherwise epsilon counts each client as if it took part in every round.",
        lower_bound=10**38,
        upper_bound=2**256,
    )


def upload_from_flags(options: ProgramFlags) -> overlap_mean.Upload:
    """Returns the encoding of updates that --compression names."""
    return EightBitUpload() if options.compression == "8bit" else overlap_mean.Upload()


def aggregator_from_flags(
    options: ProgramFlags, supernet: Supernet, nested: bool
) -> tff.aggregators.WeightedAggregationFactory:
    """Builds the aggregation of updates that the flags describe.

    Args:
      options: The program's flags.
      supernet: The supernet whose subnets are trained.
      nested: Whether the updates also contain every subnet of a subnet.

    Raises:
      ValueError: If flags contradict each other.
    """
    clipping_norm = _norm(options, "clipping")
    zeroing_norm = _norm(options, "zeroing")
    shared = {
        "divisor": options.aggregation,
        "nested": nested,
        "upload": upload_from_flags(options),
    }
    if options.noise_multiplier:
        _check_private(options, clipping_norm, zeroing_norm)
        # The factory itself clips updates, and does not release how many.
        factory = PrivateOverlapMeanFactory(
            supernet, clipping_norm, options.noise_multiplier, _noise_seed(options), **shared
        )
        clipping_norm = None
    elif options.poisoned:
        factory = RobustOverlapMeanFactory(
            supernet, options.poisoned, max(3, options.clients_per_round), **shared
        )
    else:
        factory = overlap_mean.OverlapMeanFactory(supernet, **shared)
    if clipping_norm is not None:
        if clipping_norm == "adaptive":
            clipping_norm = clipping.adaptive_clipping_norm()
        factory = clipping.ClippingFactory(clipping_norm, factory)
    if zeroing_norm is not None:
        if zeroing_norm == "adaptive":
            zeroing_norm = clipping.adaptive_zeroing_norm()
        factory = clipping.ZeroingFactory(zeroing_norm, factory)
    return factory


def privacy_from_flags(options: ProgramFlags, assignment: Assignment) -> PrivacyAccount | None:
    """Returns the privacy account of a private run; None if it is not private.

    Raises:
      ValueError: If all rounds together would cost more than the privacy budget.
    """
    if not options.noise_multiplier:
        # A flag file may set the budget of a private run whose noise the command line removes.
        if options.max_epsilon is not None and (
            options.is_on_command_line("max_epsilon")
            or not options.is_on_command_line("noise_multiplier")
        ):
            raise ValueError(
                "--max_epsilon: expected --noise_multiplier and a norm for --clipping with it, "
                "received no noise. Without noise, nothing is private."
            )
        return None
    clients = assignment.clients
    account = PrivacyAccount(
        noise_multiplier=options.noise_multiplier,
        delta=0.1 / clients if options.delta is None else options.delta,
        clients_per_round=assignment.asked,
        clients=clients,
        # Coverage shows which subnets a round trained, and so which tiers took part.
        sampled=assignment.has_secret_random_cohorts and options.algorithm in ("fedsup", "fedavg"),
    )
    budget = options.max_epsilon
    cost = account.epsilon_after(options.rounds)
    if budget is not None and cost > budget:
        raise ValueError(
            f"--max_epsilon: expected {options.rounds} rounds to cost at most {budget:g}, they "
            f"would cost {cost:.3g} at delta {account.delta:.1e}. The budget holds "
            f"{account.rounds_within(budget, options.rounds)} rounds; or give more "
            "--noise_multiplier, or ask fewer of more --clients."
        )
    return account


def _norm(options: ProgramFlags, name: str) -> float | str | None:
    value = options[name].value
    if value in ("none", "adaptive"):
        return None if value == "none" else value
    try:
        return FiniteFloatParser(above=0).parse(value)
    except ValueError as error:
        raise ValueError(
            f"--{name}: expected none, adaptive or a finite norm above 0 such as 1.5, received "
            f"{value!r}."
        ) from error


def _check_private(options: ProgramFlags, clipping_norm, zeroing_norm) -> None:
    if not isinstance(clipping_norm, float):
        raise ValueError(
            "--noise_multiplier: expected a norm such as --clipping=0.5 with it, received "
            f"--clipping={options.clipping}. Noise is measured in that norm."
        )
    if zeroing_norm == "adaptive":
        raise ValueError(
            "--noise_multiplier: an adaptive --zeroing would tell of norms without noise; expected "
            "none or a norm."
        )
    if options.weighting != "uniform":
        raise ValueError(
            "--noise_multiplier: expected --weighting=uniform, received "
            f"--weighting={options.weighting}. Privacy counts every client alike."
        )
    if options.poisoned:
        raise ValueError(
            "--noise_multiplier and --poisoned: expected one of them. Which updates were set aside "
            "would be visible in the weights, and noise does not hide it."
        )
    if options.over_asked or options.round_deadline:
        raise ValueError(
            "--noise_multiplier: expected neither --over_asked nor --round_deadline with it. Who "
            "answers in time depends on the number of a client's examples, and the weights show it."
        )


def _noise_seed(options: ProgramFlags) -> tuple[int, int]:
    if options.noise_seed is not None:
        return (options.noise_seed, 0)
    return (secrets.randbits(31), secrets.randbits(31))
