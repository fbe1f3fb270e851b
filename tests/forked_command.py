"""Command that lets `programs.Commands` run a program, and prints its output.

Usage: forked_command.py SOCKET NAME [ARGUMENT ...]
"""

import json
import os
import signal
import socket
import sys

# A kernel is interrupted before it is shut down; the shutdown also ends this process.
signal.signal(signal.SIGINT, signal.SIG_IGN)
path, *call = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    with connection.makefile("rw", encoding="utf-8") as stream:
        print(json.dumps([call, os.getcwd()]), file=stream, flush=True)
        for line in stream:
            kind, value = json.loads(line)
            if kind == "code":
                sys.exit(value)
            print(value, end="", file=getattr(sys, kind), flush=True)
sys.exit("The process that runs programs has ended.")
