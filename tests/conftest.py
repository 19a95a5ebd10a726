"""Makes the shared helpers importable: a package named ``tests`` exists in site-packages too."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # small nets: more threads only wait for each other
