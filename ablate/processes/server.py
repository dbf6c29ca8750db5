"""Imported by the server that tasks are forked from, before all else, and by it alone.

A cluster sends SIGTERM to every process of a job, a terminal Ctrl-C. The tasks save their state
then; a task whose server is gone ends at once, as it takes it that nobody listens any more.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # already while it imports
gc.disable()  # what is imported stays: to look through it again and again takes 1.5 s
atexit.register(os._exit, 0)  # to free it takes as long, and who reads the output waits for it
