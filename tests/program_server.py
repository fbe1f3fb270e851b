"""Setup of the fork server for programs, imported before all modules that they need.

`programs.Program` enables garbage collection again in forked processes.
"""

import gc
import sys

# The server inherits the option -B of the tests' interpreter, and without a bytecode cache it would
# compile thousands of modules in each test run.
sys.dont_write_bytecode = False
# Imported objects are never freed; collecting them again and again would waste time.
gc.disable()
