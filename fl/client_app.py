"""The ClientApp: one client, or a host that simulates the client that a message names."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread per process: measured faster than two on models of this size

import torch
from flwr.clientapp import ClientApp

from fl.client import handlers

torch.set_num_threads(1)
app = ClientApp()
app.query()(handlers.query)
app.train()(handlers.train)
app.train("split")(handlers.split)
app.evaluate()(handlers.evaluate)
