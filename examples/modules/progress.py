#!/usr/bin/env python3
"""Works in steps, says how far it is, and tidies up when it is stopped.

The first argument is the number of steps (default 5), the second the seconds each takes (default 0.2). What
a module prints reaches every watcher while it runs, so it is flushed line by line. A cancelled execution, or
one past its run_timeout, is sent SIGTERM and has a grace (`stop_grace`) to end by itself before it is killed.

    flowgate submit --provider process --watch --input '{"module": "progress.py", "args": ["10"]}'
"""

import signal
import sys
import time


def stopped(_signal, _frame):
    print("stopping: this would be the place to remove temporary files", file=sys.stderr, flush=True)
    sys.exit(1)


signal.signal(signal.SIGTERM, stopped)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 0.2
for step in range(1, steps + 1):
    print(f"step {step} of {steps}", flush=True)
    time.sleep(seconds)
