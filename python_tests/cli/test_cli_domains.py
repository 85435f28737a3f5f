"""The domain protocol and the limits on images, from the command line."""

from __future__ import annotations

import numpy as np
import pytest

from awpf_ext import io


@pytest.fixture
def domains_file(write_features):
    """Six classes, of which each has two training and at most two test images in each domain."""
    return write_features(
        "two.npz",
        train_domain=np.arange(36) % 3,
        test_domain=np.arange(30) % 3,
        domainnames=np.array(["day", "night", "x" * 60]),
    )


def test_a_domain_is_a_task(domains_file, awpf, tmp_path):
    arguments = ["run", f"--dataset=features:{domains_file}", "--protocol=domain", "--no-report"]
    done = awpf(*arguments, "--method=zero_shot", "--order=seed:0")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "zero_shot on features:two.npz: 3 domains, order seed:0, seed 0"
    assert [line.split()[0] for line in lines[2:6]] == ["domain", "x" * 60, "night", "day"]
    assert lines[-1].startswith("runs/two-zero_shot-domains-")
    kept = io.read_json(tmp_path / lines[-1] / "result.json")
    assert kept["provenance"]["domains"] == ["x" * 60, "night", "day"]
    assert [len(task["accuracies"]) for task in kept["tasks"]] == [1, 2, 3]
    assert all(len(task["class_accuracies"]) == 6 for task in kept["tasks"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method=awpf"], "'awpf' does not support the domain protocol"),
        (["--method=zero_shot", "--order=file:none"], "cannot read a domain order from none"),
        (["--method=zero_shot", "--protocol=domains"], "protocol is 'domains'; expected 'class'"),
    ],
)
def test_what_cannot_be_run_by_domains(domains_file, awpf, arguments, message):
    common = ["--protocol=domain", f"--dataset=features:{domains_file}"]
    refused = awpf("run", *common, *arguments)
    assert refused.code in (2, 3)
    assert message in refused.err


def test_data_without_domains_has_no_domain_protocol(image_arguments, features_file, awpf):
    for data in (image_arguments, [f"--dataset=features:{features_file}"]):
        refused = awpf("run", *data, "--protocol=domain", "--method=zero_shot")
        assert refused.code == 2
        assert "has no domains; demo:all, domainnet:PATH and domains:PATH have" in refused.err


def test_limits_hold_before_anything_is_encoded(image_arguments, awpf):
    limits = ["--train-limit=3", "--test-limit=1"]
    done = awpf("features", *image_arguments[:1], *image_arguments[3:], *limits, "--json").json
    assert (done["train"][0], done["test"][0]) == (12, 4)
    assert done["provenance"]["train_limit"] == 3
    run = ["run", *image_arguments, "--method=zero_shot", *limits, "--set", "imbalance=0.3"]
    facts = awpf(*run, "--json", "--out=run").json["provenance"]
    assert facts["train_images"] == 3 + 2 + 1 + 1  # floor(3 * 0.3 ** (k / 3)), at least one
    assert {key: facts[key] for key in ("test_limit", "imbalance")} == {
        "test_limit": 1,
        "imbalance": 0.3,
    }
    other = awpf(*run, "--out=run", "--test-limit=2")
    assert other.code == 4
    assert "belongs to another run: test_limit is 1 there, 2 here" in other.err


def test_a_sweep_over_limits_reads_other_images_for_each(image_arguments, awpf):
    keys = ["--parameter=train_limit", "--values=1,2", "--parameter=method", "--values=zero_shot"]
    sweep = awpf("sweep", *image_arguments, *keys, "--orders=natural", "--seeds=0,1", "--json")
    assert sweep.code == 0
    images = [
        io.read_json(f"{run['folder']}/result.json")["provenance"]["train_images"]
        for run in sweep.json["runs"]
    ]
    assert images == [4, 4, 8, 8]


@pytest.mark.parametrize("limit", ["--train-limit=0", "--test-limit=-1"])
def test_limits_below_one_are_refused(features_file, awpf, limit):
    refused = awpf("run", f"--dataset=features:{features_file}", limit)
    assert refused.code == 2
    assert f"{limit[2:].split('=')[0].replace('-', '_')} is " in refused.err
