"""Small images for the methods that train CLIP itself."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # `from tiny_images import ...`
