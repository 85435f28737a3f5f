"""A search for the best merge that ends early loses no score, and continues."""

from __future__ import annotations

import errno
import json
import os
import signal

import pytest
from small_adapters import Closeness, deltas, distance

from awpf_ext import io
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora import choose_merge, merge


def test_an_existing_output_is_refused_before_anything_is_scored(two, tmp_path):
    merge(two, tmp_path / "out")
    score = Closeness(two[0])
    with pytest.raises(UserError, match="out exists; choose another name"):
        choose_merge(two, tmp_path / "out", score)
    assert score.seen == []
    assert choose_merge(two, tmp_path / "out", score, methods=["iso"], force=True).method == "iso"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DataError("no memory"), ValueError("x")])
def test_scores_are_kept_when_the_search_ends_early(error, two, tmp_path):
    class Stops(Closeness):
        def __call__(self, path):
            if len(self.seen) == 7:
                raise error
            return super().__call__(path)

    score = Stops(two[0])
    words = "x" if isinstance(error, ValueError) else r"7 scores are kept in .*/.out.choosing, and"
    few = {"methods": ["linear", "tsv"], "scales": [0.4, 0.5, 1]}
    with pytest.raises(type(error), match=words):
        choose_merge(two, tmp_path / "out", score, **few)
    assert not (tmp_path / "out").exists()
    again = Closeness(two[0])
    report = choose_merge(two, tmp_path / "out", again, **few)
    assert len(report.ranking) == 7 + len(again.seen) == 8 + 6
    uninterrupted = choose_merge(two, tmp_path / "other", Closeness(two[0]), **few)
    assert uninterrupted.ranking == report.ranking
    assert not (tmp_path / ".out.choosing").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("moment", ["writing adapter_model", "synced scores.json", "moved out"])
def test_a_killed_search_continues(moment, two, tmp_path):
    few = {"methods": ["linear", "tsv"], "scales": [0.4, 1]}
    child = os.fork()
    if child == 0:
        passed = []

        def hook(name):
            passed.extend([name] * name.startswith(moment))
            if len(passed) == (1 if moment == "moved out" else 12):
                os.kill(os.getpid(), signal.SIGKILL)

        io.atomic.FAULT_HOOK = hook
        choose_merge(two, tmp_path / "out", Closeness(two[0]), **few)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    again = Closeness(two[0])
    report = choose_merge(two, tmp_path / "out", again, **few)
    assert len(again.seen) < len(report.ranking)
    whole = choose_merge(two, tmp_path / "whole", Closeness(two[0]), **few)
    assert whole.ranking == report.ranking
    assert distance(deltas(report.out), deltas(whole.out)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out", "whole"]


def test_scores_of_something_else_are_not_used(two, write, tmp_path):
    def fails(path):
        if path.name == "tried" and len(list(tmp_path.glob(".out.choosing/scores.json"))):
            raise DataError("stop")
        return 1

    fails.name = "closeness"
    with pytest.raises(DataError, match="stop; 1 score is kept in"):
        choose_merge(two, tmp_path / "out", fails)
    other = [two[0], write("c")]
    words = r"has scores of an unfinished choice with other sources; discard them with force"
    with pytest.raises(UserError, match=words):
        choose_merge(other, tmp_path / "out", Closeness(two[0]))
    with pytest.warns(UserWarning, match="discarded 1 scores of an unfinished choice with other s"):
        report = choose_merge(
            other, tmp_path / "out", Closeness(two[0]), methods=["linear"], force=True
        )
    assert max(one.score for one in report.ranking) <= 0  # the kept score was 1


def test_merges_without_a_finite_score_come_last(two, tmp_path):
    values = iter([float("nan"), -3.0, float("inf"), -float("inf"), DataError("stop")])

    def diverges(path):
        value = next(values, -2.0)
        if isinstance(value, Exception):
            raise value
        return value

    few = {"methods": ["tsv"], "scales": [1, 2, 3, 4, 5, 6]}
    with pytest.raises(DataError, match="stop; 4 scores are kept in"):
        choose_merge(two, tmp_path / "out", diverges, **few)
    report = choose_merge(two, tmp_path / "out", diverges, **few)
    scores = [one.score for one in report.ranking]
    assert scores == [-2] * (len(scores) - 4) + [-3] + [None] * 3
    assert [one.error for one in report.ranking[-3:]] == [
        "the score was nan", "the score was inf", "the score was -inf",
    ]  # fmt: skip
    assert report.weights == (5, 5)
    with pytest.raises(DataError, match=r"no merge has a score: the score was nan$"):
        choose_merge(two, tmp_path / "none", lambda path: float("nan"), **few)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_scores_of_an_adapter_with_another_configuration_are_not_used(two, tmp_path):
    class Stops(Closeness):
        version = "1"

        def __call__(self, path):
            if self.seen:
                raise DataError("stop")
            return super().__call__(path)

    score = Stops(two[0])
    with pytest.raises(DataError, match="stop; 1 score is kept in"):
        choose_merge(two, tmp_path / "out", score)
    config = json.loads((two[1] / "adapter_config.json").read_text())
    changed = {**config, "lora_alpha": 100 * config["lora_alpha"]}
    (two[1] / "adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="an unfinished choice with other sources; discard them"):
        choose_merge(two, tmp_path / "out", score)
    (two[1] / "adapter_config.json").write_text(json.dumps(config))
    score.version = "2"
    with pytest.raises(UserError, match="an unfinished choice with other files of the score; dis"):
        choose_merge(two, tmp_path / "out", score)


def test_another_search_at_work_is_left_alone(two, tmp_path):
    with (
        io.lock(tmp_path / ".out.choosing" / ".lock"),
        pytest.raises(UserError, match="is in use by process"),
    ):
        choose_merge(two, tmp_path / "out", Closeness(two[0]))


def test_what_a_score_leaves_behind_is_removed(two, tmp_path):
    def leaves(path):
        assert not (path / "cache.json").exists()
        (path / "cache.json").write_text("{}")
        return -abs(sum(json.loads((path / "merge.json").read_text())["weights"]) - 1.5)

    report = choose_merge(two, tmp_path / "out", leaves, methods=["linear", "tsv"])
    assert {one.error for one in report.ranking} == {None}
    assert report.weights == (0.75, 0.75)
    assert not (report.out / "cache.json").exists()


@pytest.mark.parametrize("moment", ["writing adapter_model", "writing scores.json"])
def test_a_full_disk_ends_the_search(moment, two, tmp_path, monkeypatch):
    passed = []

    def hook(name):
        if name.startswith(moment):
            passed.append(name)
            if len(passed) == (20 if "model" in moment else 2):
                raise OSError(errno.ENOSPC, "No space left on device")

    few = {"methods": ["linear", "tsv"], "scales": [0.4, 1]}
    monkeypatch.setattr(io.atomic, "FAULT_HOOK", hook)
    with pytest.raises(DataError, match=r"the disk is full; .*; \d scores? (is|are) kept in"):
        choose_merge(two, tmp_path / "out", Closeness(two[0]), **few)
    report = choose_merge(two, tmp_path / "out", Closeness(two[0]), **few)
    assert {one.error for one in report.ranking} == {None}
    whole = choose_merge(two, tmp_path / "whole", Closeness(two[0]), **few)
    assert whole.ranking == report.ranking


def test_an_output_that_appears_meanwhile_leaves_the_scores(two, tmp_path):
    class Slow(Closeness):
        def __call__(self, path):
            (tmp_path / "out").mkdir(exist_ok=True)
            (tmp_path / "out" / "merge.json").touch()
            return super().__call__(path)

    with pytest.raises(UserError, match=r"out exists; .*; 2 scores are kept in .*out.choosing"):
        choose_merge(two, tmp_path / "out", Slow(two[0]), weights=[[1, 1], [1, 2]],
                     methods=["linear"])  # fmt: skip
