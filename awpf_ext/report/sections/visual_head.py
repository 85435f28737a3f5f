"""The share of the visual head in the predictions after each task, from the method's records."""

from __future__ import annotations

import math

from awpf_ext.report.blocks import Drawing, Section, Table, Text
from awpf_ext.report.load import FinishedRun
from awpf_ext.report.sections.accuracy import finish_axes
from awpf_ext.report.style import new_figure, series

KEY = "head_share"


def section(run: FinishedRun) -> Section | None:
    shares = {record["task"]: record[KEY] for record in run.result.records if KEY in record}
    if not shares:
        return None
    places = [run.places[task] for task in shares]
    values = [float(share) for share in shares.values()]
    figure, axes = new_figure(height=2.7)
    colour = series(4)
    marker = "o" if len(places) <= 30 else ""
    axes.plot(places, values, color=colour.light, marker=marker, clip_on=False)
    ends = [(places[-1], values[-1], "share", colour)]
    finish_axes(figure, places, ends, run.across, 2.7, least=0.01, limits=(0.0, math.inf))
    rows = [[run.task_names[task], f"{share:.4f}"] for task, share in shares.items()]
    return Section(
        "Visual head",
        [
            Text(
                "Beside the class texts, a linear discriminant of the class statistics classifies "
                "the image features. The logits are, up to a common factor, the scaled cosines "
                "with the texts plus the share times the discriminant's scores. It is chosen on "
                "training images that a second learner did not see. As the scores are many times "
                "larger than the cosines, a small share counts. 0: the texts alone."
            ),
            Drawing("head_share", f"Share of the visual head after each {run.noun}.", figure),
            Table([run.noun, "share"], rows, title="Values", beside=len(rows) <= 12),
        ],
    )
