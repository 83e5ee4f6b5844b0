"""What programs that tests fork begin with: imports, and the text encoder.

Read by multiprocessing's fork server, which finds it from the folder that pytest runs in.
"""

import gc
import importlib

import torch

from imagen_video import presets
from imagen_video.training.job import encoder_of
from imagen_video.training.run import RunSpec

gc.disable()
for name in (
    "av",
    "imagen_video.cascade",
    "imagen_video.cli.train",
    "imagen_video.evaluation.evaluate",
    "imagen_video.web.page",
    "torch._dynamo",
    "tyro.extras",
):
    importlib.import_module(name)

threads = torch.get_num_threads()
torch.set_num_threads(1)  # threads that have worked are not there any more in what is forked
encoder_of(presets.tiny().text, RunSpec(), torch.device("cpu"))(["a square"])
torch.set_num_threads(threads)
gc.freeze()  # pages of it stay shared
gc.enable()
