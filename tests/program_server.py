"""Imported first in the process that programs are forked off, before all that it imports for them.

`programs.Program` lets what is forked collect garbage again.
"""

import gc
import sys

# Its interpreter has the option -B where that of the tests has it, and would compile thousands of
# modules in each run of the tests.
sys.dont_write_bytecode = False
# What imports make stays; the collector would traverse it again and again.
gc.disable()
