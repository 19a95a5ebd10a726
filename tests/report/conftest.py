import sys
from pathlib import Path

# `tests` is also a package that a dependency installs, so the factory is imported by its own name.
sys.path.insert(0, str(Path(__file__).parent))
