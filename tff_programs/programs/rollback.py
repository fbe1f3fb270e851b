"""fedsup rollback --out=FOLDER --round=N: rolls back a gateway's newest rounds.

Training continues from the supernet that was trained for N rounds; updates that devices sent since
then do not count. The gateway may keep running.
"""

import time
from collections.abc import Sequence

from tff_programs.gateway.database import Database
from tff_programs.gateway.rollback import roll_back
from tff_programs.programs.flags.gateway_flags import define_gateway_flags, gateway_database
from tff_programs.programs.flags.program_flags import FlagDefiner, parse_flags_only


def define_flags(define: FlagDefiner) -> None:
    """Defines the program's flags."""
    define_gateway_flags(define)
    define.integer(
        "round", None, "Number of training rounds of the supernet to return to.", lower_bound=0
    )


def main(argv: Sequence[str]) -> None:
    """Rolls back rounds."""
    options = parse_flags_only(define_flags, argv)
    if options.round is None:
        raise ValueError("Expected --round=N, the rounds that the supernet was trained for.")
    database: Database = gateway_database(options)
    try:
        with database.write() as connection:
            undone = roll_back(connection, options.out, options.round, time.time())
    finally:
        database.close()
    print(f"rolled back: rounds {', '.join(map(str, undone))}; round {options.round} is open again")
