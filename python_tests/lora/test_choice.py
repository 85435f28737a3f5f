"""The best of many merges is found and written."""

from __future__ import annotations

import json
import os
import sys

import pytest
from safetensors.torch import load_file
from small_adapters import Closeness

from awpf_ext import io
from awpf_ext.errors import DataError, UserError
from awpf_ext.lora import ProgramScore, choose_merge, merge
from awpf_ext.lora.checkpoint_reader import CHECKPOINT

ALL = ["linear", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune", "knots", "tsv",
       "iso", "icm"]  # fmt: skip


def test_the_best_is_written_with_the_ranking(two, tmp_path):
    target = merge(two, tmp_path / "target", method="tsv", weights=[0.75, 0.75])
    score = Closeness(target.out)
    report = choose_merge(two, tmp_path / "out", score)
    assert (report.method, report.weights) == ("tsv", (0.75, 0.75))
    found, expected = (load_file(x.out / "adapter_model.safetensors") for x in (report, target))
    assert all((found[name] == expected[name]).all() for name in expected)
    first = 2 + 6 * (len(ALL) - 1) + 1  # 1 / T is among the six usual scales; icm needs one
    assert len(report.ranking) == len(score.seen) == first + 3 * 2
    assert {one.method for one in report.ranking} == set(ALL)
    scores = [one.score for one in report.ranking]
    assert scores == sorted(scores, reverse=True)
    record = io.read_json(report.out / "merge.json")
    assert record["validation"] == "closeness"
    assert record["ranking"][0] == {
        "method": "tsv", "settings": {}, "weights": [0.75, 0.75], "score": scores[0], "error": None,
    }  # fmt: skip
    assert record["weights"] == [0.75, 0.75]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out", "target"]


def test_other_weights_are_tried_for_the_best(two, tmp_path):
    target = merge(two, tmp_path / "target", weights=[1, 0.5])
    methods = ["linear", "ties", "tsv"]
    report = choose_merge(two, tmp_path / "out", Closeness(target.out), methods=methods)
    assert report.method == "linear"
    assert report.weights == pytest.approx((1, 0.5), abs=1e-5)


def test_each_source_alone_is_tried(two, tmp_path):
    report = choose_merge(two, tmp_path / "out", Closeness(two[1]), methods=["linear", "iso"])
    assert (report.method, report.weights) == ("linear", (0, 1))


def test_what_is_tried_can_be_restricted(two, tmp_path):
    tried = choose_merge(
        two,
        tmp_path / "out",
        Closeness(two[0]),
        methods=["ties", "tsv"],
        weights=[[1, 1], [1, -2]],
        scales=[0.5, 2],
        density=0.3,
        rank=2,
    ).ranking
    found = {(one.method, one.weights) for one in tried}
    assert len(tried) == len(found) == 8
    assert {weights for _, weights in found} == {(0.5, 0.5), (2, 2), (0.5, -1), (2, -4)}
    assert {json.dumps(one.settings) for one in tried} == {
        '{"rank": 2, "density": 0.3}', '{"rank": 2}',
    }  # fmt: skip
    plain = choose_merge(two, tmp_path / "plain", Closeness(two[0]), weights=[[1, 3]])
    assert {one.weights for one in plain.ranking} == {(1, 3)}  # scale 1


def test_every_merge_that_is_tried_keeps_a_given_rank(two, tmp_path):
    report = choose_merge(two, tmp_path / "out", Closeness(two[1]), rank=3, scales=[1])
    assert {one.method for one in report.ranking} == {*ALL} - {"linear", "icm"}
    assert {one.settings["rank"] for one in report.ranking} == {3}
    assert (report.method, report.weights) == ("svd", (0, 1))  # the second alone, cut to rank 3
    assert max(layer.rank for layer in report.layers) == 3
    for method in ("linear", "stack", "icm"):
        with pytest.raises(UserError, match=f"rank is 3, which {method} does not keep"):
            choose_merge(two, tmp_path / "no", len, rank=3, methods=["ties", method])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["tie"]}, "there is no merge method 'tie'; did you mean"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["tsv"], "density": 0.5}, "density is a setting of none of the methods tsv"),
        ({"density": 2}, "density is 2; expected a number above 0, at most 1"),
        ({"weights": [[1]]}, "there are 1 weights for 2 sources"),
        ({"scales": [1, 0]}, r"scales is \[1, 0\]; expected numbers other than 0"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
    ],
)
def test_bad_restrictions(options, words, two, tmp_path):
    score = Closeness(two[0])
    with pytest.raises(UserError, match=words):
        choose_merge(two, tmp_path / "out", score, **options)
    assert score.seen == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_impossible_merges_are_ranked_last_with_their_reason(write, tmp_path):
    pair = [write("a", 4), write("b", 2)]
    report = choose_merge(
        pair, tmp_path / "out", Closeness(pair[0]), methods=["ties", "linear"], scales=[1],
        merge_space="factors",
    )  # fmt: skip
    assert report.method == "linear"
    last = report.ranking[-1]
    assert (last.method, last.score) == ("ties", None)
    assert "merge_space=factors needs adapters of one rank" in last.error
    with pytest.raises(UserError, match="merge_space=factors needs adapters of one rank"):
        choose_merge(pair, tmp_path / "no", Closeness(pair[0]), methods=["ties"],
                     merge_space="factors")  # fmt: skip


@pytest.mark.parametrize("value", [None, "many"])
def test_a_score_has_to_be_a_number(value, two, tmp_path):
    with pytest.raises(UserError, match=r"score returned .*; expected a number$"):
        choose_merge(two, tmp_path / "out", lambda path: value)


def test_checkpoints_are_chosen_among_by_their_file(base, tuned, tmp_path):
    seen = []

    def score(path):
        seen.append(path.name)
        return float(load_file(path)["visual.proj"].norm())

    report = choose_merge(tuned, tmp_path / "out", score, base=base, scales=[2])
    assert set(seen) == {CHECKPOINT}
    assert {one.method for one in report.ranking} == {*ALL} - {"icm", "svd"}  # svd is linear here
    norms = {one.score for one in report.ranking}
    written = float(load_file(report.written)["visual.proj"].norm())
    assert written == max(norms) == report.ranking[0].score


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"methods": ["linear", "icm"]}, "icm merges adapters only"),
        ({"merge_space": "factors"}, "merge_space is 'factors'; expected delta"),
    ],
)
def test_what_checkpoints_do_not_have(options, words, base, tuned, tmp_path):
    with pytest.raises(UserError, match=words):
        choose_merge(tuned, tmp_path / "out", lambda path: pytest.fail("scored"), base=base,
                     **options)  # fmt: skip


@pytest.fixture
def script(tmp_path):
    def write_script(text: str) -> str:
        (tmp_path / "score.py").write_text(f"import sys\nfrom pathlib import Path\n{text}\n")
        return str(tmp_path / "score.py")

    return write_script


def test_a_program_gets_the_path_and_prints_the_score_last(script, two):
    name = script("print('loading', *sys.argv[1:-1])\nprint(len(Path(sys.argv[-1]).name))\nprint()")
    assert ProgramScore(name)(two[0]) == 1
    assert ProgramScore(f"'{sys.executable}' {name} --fast")(two[0] / "adapter_config.json") == 19


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sys.exit('no GPU')", r"score.py failed with exit code 1 \(no GPU\)"),
        ("sys.exit(3)", "score.py failed with exit code 3$"),
        ("import os; os.kill(os.getpid(), 9)", "score.py failed with signal 9$"),
        ("print('0.5\\ndone')", "the last line that .*score.py printed is 'done'; expected the"),
        ("", "printed is ''; expected the score"),
    ],
)
def test_programs_that_fail(text, words, script, two):
    with pytest.raises(DataError, match=words):
        ProgramScore(script(text))(two[0])


@pytest.mark.parametrize("command", ["", "none.py", "no-such-program --x", "'"])
def test_what_is_no_program(command):
    with pytest.raises(UserError, match=r"is neither a data set .* nor a program|cannot be read"):
        ProgramScore(command)


@pytest.mark.parametrize(
    "command", ["{}", "python -u {}", "env A=1 python {}", f"sh -c '{300 * 'x'}' {{}}"]
)
def test_a_changed_program_is_another_one(command, script):
    before = ProgramScore(command.format(script("print(1)"))).version
    assert ProgramScore(command.format(script("print(1)"))).version == before
    assert ProgramScore(command.format(script("print(2)"))).version != before


@pytest.mark.parametrize("command", ["./score.sh", "~/score.sh", "{}/score.sh", "score.sh"])
def test_a_program_is_found_as_in_a_shell(command, two, tmp_path, monkeypatch):
    (tmp_path / "score.sh").write_text("#!/bin/sh\necho 3\n")
    (tmp_path / "score.sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if command == "score.sh":  # not in PATH
        with pytest.raises(UserError, match=r"is neither a data set .* nor a program"):
            ProgramScore(command)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    score = ProgramScore(command.format(tmp_path))
    assert score(two[0]) == 3
    (tmp_path / "score.sh").write_text("#!/bin/sh\necho 4\n")
    assert ProgramScore(command.format(tmp_path)).version != score.version


def test_a_process_that_a_program_leaves_behind_is_not_waited_for(tmp_path, two):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    holder = f"sh -c 'cat {gate} & echo 1'"  # blocks until the fifo is written to
    assert ProgramScore(holder)(two[0]) == 1
    handle = os.open(gate, os.O_WRONLY)  # there is a reader: it is still at work
    os.close(handle)
