"""The tests of the operations need torch and the package's first two floors only."""

from __future__ import annotations

import sys
from pathlib import Path

# `from references import ...`; the checkout itself stays off the path, so that an installed package
# is what is tested.
sys.path.append(str(Path(__file__).parent))
