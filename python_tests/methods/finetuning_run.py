"""One `awpf run` in this process, or in one of several; for test_finetuning_processes.py."""

from __future__ import annotations

import sys
from pathlib import Path

import open_clip
import torch

from awpf_ext.cli.main import main

torch.set_num_threads(1)
open_clip.add_model_config(Path(__file__).parents[1] / "clip" / "tiny.json")
main(sys.argv[1:])
