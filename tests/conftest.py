"""One thread a worker: the models of the tests are small, and workers that share cores only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
