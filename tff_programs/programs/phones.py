"""fedsup phones --server=LINK --clients=N: simulated phones for `fedsup serve`, as processes.

A simulated phone has only what a real one has: the stock runtime and its own examples, but neither
TensorFlow nor any of the server's files. It enrols, checks in, fetches the model of its tier,
trains it and sends the update; it comes back when the server says. --server is the link that
`fedsup serve` prints, or an address with --token. For a share of their tasks, phones can vanish,
send late, lie, send damaged bytes, send twice or be killed.

`fedsup phones --server='fedsup://enrol?...' --clients=10 --out=phones --vanish=0.1 --crash=0.1`
"""

import dataclasses
import importlib.metadata
import os
from collections.abc import Sequence

from fedsup_tf.data.federated_dataset import FederatedDataset
from fedsup_tf.files.atomic_write import make_folder
from fedsup_tf.files.reading import read_text
from tff_programs.programs.console import print_line
from tff_programs.programs.flags.data_flags import (
    data_settings_from_flags,
    define_data_flags,
    load_data,
)
from tff_programs.programs.flags.program_flags import FlagDefiner, ProgramFlags, parse_flags_only
from tff_programs.programs.flags.runtime_flags import define_runtime_flag
from tff_programs.programs.personal_examples import check_form, for_model
from tff_programs.programs.phone_faults import FAULTS
from tff_programs.programs.phone_fleet import PhoneFleet, PhonesSettings
from tflite.device.runtime import choose_runtime
from tflite.format.metadata import ModelMetadata
from tflite.together.address import ServerAddress, parse_link
from tflite.together.federation import Federation

_HELP = {
    "vanish": "take a task and send nothing.",
    "late": "send the update after their round was closed.",
    "hostile": "send an update multiplied by -10.",
    "damaged": "first send damaged bytes.",
    "replay": "send each update twice.",
    "crash": "are killed between training and sending, and start again.",
}


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_data_flags(define)
    define.string(
        "server",
        None,
        "The link fedsup://enrol?... that `fedsup serve` prints, @FILE for a file that holds it, "
        "which keeps the token out of the process list, or an address such as "
        "https://example.org:8443.",
    )
    define.string("token", None, "Enrolment token, if --server is an address.")
    define.path(
        "tls_authority",
        None,
        "PEM file of the only authority whose certificates are accepted; by default the public "
        "authorities, or the one certificate in the link.",
    )
    define.output_folder("out", None, "Folder of the phones' files; existing phones continue.")
    define.integer(
        "processes",
        0,
        "Phones that work in parallel; 0 for one per CPU core.",
        lower_bound=0,
        upper_bound=1024,
    )
    define.integer("rounds", None, "Server rounds after which the phones stop.", lower_bound=1)
    define.list(
        "tiers", [], "Tiers assigned to the phones in turn; by default, phones train any subnet."
    )
    define_runtime_flag(define)
    for fault in FAULTS:
        define.float(
            fault,
            0.0,
            f"Share of the tasks in which phones {_HELP[fault]}",
            lower_bound=0,
            upper_bound=1,
        )


def main(argv: Sequence[str]) -> None:
    """Runs phones until the server's rounds are over."""
    options = parse_flags_only(define_flags, argv)
    if not options.server:
        raise ValueError("Expected --server=LINK, which `fedsup serve` prints.")
    if not options.out:
        raise ValueError("Expected --out=FOLDER, where the phones' files are kept.")
    shares = {fault: options[fault].value for fault in FAULTS}
    if sum(shares.values()) > 1:
        raise ValueError(
            f"Expected shares of {', '.join(f'--{fault}' for fault in FAULTS)} that add up to at "
            f"most 1, received {sum(shares.values()):g}. Lower one of them."
        )
    choose_runtime(options.runtime)
    address = _address(options)
    # Errors of the address, certificate and version are reported once, not by each phone.
    federation = Federation(address)
    try:
        version = federation.check_server()
    finally:
        federation.close()
    make_folder(options.out)
    settings = PhonesSettings(
        clients=options.clients,
        processes=options.processes or len(os.sched_getaffinity(0)),
        rounds=options.rounds,
        tiers=tuple(options.tiers),
        shares=shares,
        seed=options.seed,
        runtime=options.runtime,
        application=f"fedsup phones {importlib.metadata.version('fedsup-tf')}",
    )
    print_line(f"{options.clients} phones for {address.url}, version {version}")
    fleet = PhoneFleet(
        address,
        options.out,
        settings,
        lambda metadata: _load_examples(options, metadata),
        print_line,
    )
    fleet.run()
    told = ", ".join(f"{count} {event}" for event, count in sorted(fleet.counts.items()))
    outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(fleet.outcomes().items()))
    print_line(f"visits: {told or 'none'}\nupdates: {outcomes or 'none'}")


def _address(options: ProgramFlags) -> ServerAddress:
    link = options.server
    if link.startswith("@"):
        link = read_text(link[1:], "the link that `fedsup serve` prints").strip()
    address = parse_link(link)
    if options.token:
        address = dataclasses.replace(address, token=options.token)
    if options.tls_authority:
        address = dataclasses.replace(
            address, authority=os.path.abspath(options.tls_authority), certificate=None
        )
    return address


def _load_examples(options: ProgramFlags, metadata: ModelMetadata) -> FederatedDataset:
    """Loads the phones' pictures in the form that a model expects."""
    settings = for_model(data_settings_from_flags(options), metadata)
    data = load_data(options, settings)
    check_form(data, metadata)
    return data
