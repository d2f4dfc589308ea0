"""A run in a process of its own, to be stopped from outside: ``interrupted_run.py URL FOLDER``."""

import sys

from small_events import small_event

from mf_llm import SimulationConfig, simulate
from mf_llm.endpoints import Endpoint

url, folder = sys.argv[1:]
endpoint = Endpoint(url, "m", concurrency=4, timeout=600.0)
config = SimulationConfig(warm_up=8, agents_per_step=10, signal="both", readout="sampled")
try:
    simulate(endpoint, None, small_event(38), config, output=folder, progress=False)
except KeyboardInterrupt:
    sys.exit(130)
