"""Runs llama.cpp's HTTP server, which is inside the wheel xllamacpp, on 127.0.0.1 until SIGTERM.

usage: llama_serve.py MODEL.gguf PORT [KEY]
"""
import signal
import sys
import threading

import xllamacpp

model, port, key = (sys.argv[1:] + [""])[:3]
params = xllamacpp.CommonParams()
params.model.path = model
params.model_alias = ["tiny"]
params.hostnames = ["127.0.0.1"]
params.port = int(port)
if key:
    params.api_keys = [key]
# Two requests are worked on side by side with half the context each; more wait.
params.n_ctx = 4096
params.n_parallel = 2
params.warmup = False
params.cpuparams.n_threads = 1
params.n_threads_http = 8
params.sampling.seed = 7
# Whether a slot is free again after a connection was closed is told at /slots.
params.endpoint_slots = True
params.endpoint_metrics = True

stop = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stop.set())
server = xllamacpp.Server(params)
# With a limit, since a wait without one is not interrupted by signals everywhere.
while not stop.wait(0.5):
    pass
