"""The demo: a data set that is drawn, for the small CLIP of awpf_ext.clip.demo_model.

`STYLES` are the renderings of the same classes: demo:STYLE names one as a data set, demo:all all
of them as domains.
"""

from awpf_ext.data.demo.dataset import DEFAULT_STYLE, demo_dataset, frozen_hash
from awpf_ext.data.demo.scene import SIZE
from awpf_ext.data.demo.styles import STYLES, TRAINED
from awpf_ext.data.demo.words import compositions

__all__ = [
    "DEFAULT_STYLE",
    "SIZE",
    "STYLES",
    "TRAINED",
    "compositions",
    "demo_dataset",
    "frozen_hash",
]
