"""Reports where a task is a domain, with class weights, and of sweeps over several keys."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from test_report import outline

from awpf_ext import io
from awpf_ext.report import write_report
from awpf_ext.report.load import read_comparison, read_run
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import run


def test_domains_are_called_domains(domain_run, tmp_path, strict):
    page = write_report(domain_run, out=tmp_path)
    content = outline(page)
    assert "6 classes in 3 domains" in content.text
    assert "order seed:0" in content.text
    for heading in ("Accuracy after each domain", "Accuracy matrix"):
        assert heading in content.text
    assert not re.search(r"\btasks?\b", content.text)
    assert "class order" not in content.text.lower()
    saved = read_run(domain_run)
    assert saved.places == [1, 2, 3]
    assert saved.seen == [6, 6, 6]
    for name in saved.domains:
        assert name in content.text
    drawn = (tmp_path / "figures" / "accuracy_matrix.svg").read_text(encoding="utf-8")
    assert drawn.index("日中") > 0
    assert ">domains seen<" in (tmp_path / "figures" / "accuracy.svg").read_text(encoding="utf-8")


def test_a_domain_run_beside_a_class_run(domain_run, tmp_path, strict):
    data = domain_run.parent / "a.npz"
    run(dataset=f"features:{data}", increment=2, method="zero_shot", out=tmp_path / "classes")
    content = outline(write_report([domain_run, tmp_path / "classes"], out=tmp_path / "both"))
    assert "The runs do not all have the same tasks." in content.text


def test_the_worst_class_is_named(domain_run, tmp_path):
    result = RunFolder(domain_run).result()
    content = outline(write_report(domain_run, out=tmp_path)).text
    lowest = [value for value in result.tasks[-1].class_accuracies if value == result.worst_class]
    assert "worst class" in content
    assert f"{100 * result.worst_class:.1f}" in content
    assert "the lowest accuracy of a class (" in content
    assert (f"({len(lowest)} have it)" in content) == (len(lowest) > 1)


def test_class_weights_and_buffer(domain_run, tmp_path, strict):
    own = Path(shutil.copytree(domain_run, tmp_path / "own"))
    assert "Class weights" not in outline(write_report(own)).text
    saved = io.read_json(own / "result.json")
    for index, task in enumerate(saved["tasks"]):
        weights = [0.1, 0.2, 0.3, 0.4, 0.0, 0.0]  # of two classes no sample is left
        buffer = {"samples": 1234, "min_per_class": 5, "max_per_class": 7}
        task["records"] = [
            {"kind": "class_weights", "task": index, "weights": weights},
            {"kind": "buffer", "task": index, "copied_bytes": 98765, **buffer},
        ]
    io.write_json(own / "result.json", saved)
    content = outline(write_report(own))
    assert {"figure-class_weights", "figure-weights_and_accuracy"} <= set(content.ids)
    text = content.text
    heaviest = re.search(r"Classes with the highest weights(.*?)Feature map", text, re.DOTALL)[1]
    assert re.findall(r"class (\d) +(\d\.\d\d)", re.sub(r"\s+", " ", heaviest))[:4] == [
        ("3", "1.60"), ("2", "1.20"), ("1", "0.80"), ("0", "0.40"),
    ]  # fmt: skip
    assert "1,234" in content.text
    assert "98,765" in content.text


def test_a_sweep_over_two_keys(combinations, tmp_path, strict):
    content = outline(write_report(combinations, out=tmp_path))
    text = re.sub(r"\s+", " ", content.text)
    assert "4 settings" in text
    assert "All combinations" in text
    figures = {f"figure-combinations_{m}" for m in ("average", "last", "worst_class")}
    assert figures <= set(content.ids)
    comparison = read_comparison([combinations])
    assert comparison.sweep.variants == ["zero_shot 3", "zero_shot 2", "finetune 3", "finetune 2"]
    spreads = [comparison.sweep.mean_std(f"finetune {increment}", "last") for increment in (3, 2)]
    cells = [f"{100 * mean:.1f} ± {100 * std:.1f}" for mean, std in spreads]
    assert "method increment 3 2 zero_shot" in text
    assert f"finetune {cells[0]} {cells[1]}" in text
    ticks = (tmp_path / "figures" / "combinations_last.svg").read_text(encoding="utf-8")
    assert ticks.index(">2<") < ticks.index(">3<")  # along the axis by size


def test_a_combination_that_is_missing_leaves_a_list(combinations, tmp_path):
    own = Path(shutil.copytree(combinations, tmp_path / "own"))
    for folder in own.glob("method=finetune-increment=2_*"):
        shutil.rmtree(folder)
    content = outline(write_report(own)).text
    assert "All combinations" not in content
    assert "method=finetune increment=3" in content


def test_a_run_of_an_earlier_version_has_no_worst_class(combinations, tmp_path):
    own = Path(shutil.copytree(combinations, tmp_path / "own"))
    file = own / "method=finetune-increment=2_order-natural_seed-0" / "result.json"
    saved = io.read_json(file)
    for task in saved["tasks"]:
        del task["class_accuracies"]
    io.write_json(file, saved)
    content = outline(write_report(own)).text
    assert "worst class" not in content
    assert "forgetting" in content
