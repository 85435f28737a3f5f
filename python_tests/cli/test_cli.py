"""The commands: what they print where, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

import awpf_ext
from awpf_ext import io
from awpf_ext.cli import run as runs

AWPF = [sys.executable, "-m", "awpf_ext.cli.main"]


def test_run_prints_one_json_object_and_nothing_else(quick_arguments, tmp_path):
    arguments = [*quick_arguments, "--base=0", "--init=identity", "--batch-size=64", "--seed=0"]
    command = [*AWPF, "run", *arguments, "--out=run", "--json"]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr == b""  # nobody watches
    assert done.stdout.count(b"\n") == 1
    report = json.loads(done.stdout)
    assert {"average", "last", "forgetting", "seconds", "provenance"} <= set(report)
    matrix = report["accuracy_matrix"]
    assert [len(row) for row in matrix] == [3, 3, 3]
    assert all(0 <= value <= 1 for row in matrix for value in row)
    assert report["provenance"]["seed"] == 0
    assert report["provenance"]["config"]["batch_size"] == 64


def test_run_prints_a_table_and_again_without_work(quick_arguments, awpf, monkeypatch):
    first = awpf("run", *quick_arguments)
    assert (first.code, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0] == "awpf on features:clip.npz: 3 tasks, order seed:0, seed 0"
    heads = "task  test images   seen   old    new  seconds to learn"
    assert lines[2].split() == heads.split()
    assert re.fullmatch(r"1 +10 +\d+\.\d +- +\d+\.\d +\d+\.\d+", lines[3])
    numbers = r"average \d+\.\d   last \d+\.\d   forgetting -?\d+\.\d   worst class \d+\.\d"
    assert re.match(rf"{numbers}   \d+\.\d+ s to learn, \d+\.\d s in all", lines[7])
    assert re.fullmatch(r"runs/clip-awpf-b0-inc2-[0-9a-f]{6}", lines[8])
    monkeypatch.setattr("awpf_ext.runs.run.train", lambda *_, **__: pytest.fail("it was run again"))
    again = awpf("run", *quick_arguments)
    assert again.out == first.out
    assert again.err == f"{lines[8]}: this run is already finished; this is its result\n"
    assert awpf("run", *quick_arguments, "--quiet").err == ""


def test_settings_that_the_method_has_not_are_noted(quick_arguments, awpf):
    done = awpf("run", *quick_arguments, "--method=zero_shot", "--init=identity")
    assert done.code == 0
    assert done.err == "zero_shot ignores init, epochs, replay_per_epoch\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--dataset="], 2, "there is no data set: give --dataset"),
        (["run", "--dataset=demo:nite"], 2, "demo has no style 'nite'; expected one of plain"),
        (["run", "--dataset=cifar"], 2, "did you mean 'cifar100'"),
        (["run", "--dataset=features:none.npz"], 2, "there is no none.npz"),
        (["run", "--dataset=x", "--set", "epoch=3"], 2, "no key 'epoch'; did you mean 'epochs'?"),
        (["run", "--dataset=x", "--methd=awpf"], 2, "No such option: --methd"),
        (["run", "--dataset=features:clip.npz", "--order=alphabet"], 2, "order is 'alphabet'"),
        (["run", "--dataset=features:clip.npz", "--base=9"], 2, "base is 9; expected 0..6"),
        (["run", "--dataset=features:damaged.npz"], 3, "cannot read features from damaged.npz"),
        (["run", "--dataset=folder:."], 3, "expected folders train/ and test/"),
        (["features", "--dataset=features:clip.npz"], 2, "is features already"),
        (["compare", "--dataset=x", "--seeds=a"], 2, "--seeds holds 'a'; expected whole numbers"),
        (["compare", "--dataset=x", "--methods=,"], 2, "--methods is ','; expected values"),
        (["compare", "--dataset=x", "--seeds=1,1"], 2, "give each value once"),
        (["sweep", "--dataset=x", "--method=rapf"], 2, "no method here has a setting balance_scal"),
        (["sweep", "--dataset=x", "--parameter=lambda"], 2, "there is no key 'lambda'"),
        (["sweep", "--dataset=x", "--parameter=seed"], 2, "seed can only be varied by --seeds"),
        (
            ["compare", "--dataset=x", "--set", "order=natural"],
            2,
            "order can only be varied by --orders",
        ),
        (["compare", "--dataset=x", "--set", "method=rapf"], 2, "method is varied by this command"),
        (["predict", "none", "a.png"], 2, "there is no none"),
        (["predict", ".", "a.png"], 2, "holds no run"),
        (["predict", "damaged.safetensors", "a.png"], 3, "cannot read damaged.safetensors"),
        (["export", ".", "a.safetensors"], 2, "holds no run"),
        (["export", ".", "a.pt"], 2, "expected a name ending in .safetensors"),
        (["methods", "awfp"], 2, "did you mean 'awpf'?"),
    ],
)
def test_errors_are_one_sentence_and_a_code(
    awpf, features_file, tmp_path, arguments, code, message
):
    for name in ("damaged.npz", "damaged.safetensors"):
        (tmp_path / name).write_bytes(b"not this")
    done = awpf(*arguments)
    assert done.code == code
    assert done.out == ""
    assert message in done.err
    assert "Traceback" not in done.err


def test_weights_that_cannot_be_fetched(awpf, image_arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    images = image_arguments[0]
    done = awpf("run", images, "--model=RN50", "--set", f"cache_dir={tmp_path / 'cache'}")
    assert done.code == 5
    assert "HF_HUB_OFFLINE is set" in done.err
    assert "Three ways out" in done.err


def test_a_bug_shows_its_traceback(quick_arguments, awpf, monkeypatch):
    monkeypatch.setattr(runs, "run_configured", lambda *_, **__: 1 / 0)
    done = awpf("run", *quick_arguments)
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    assert "this is a bug in awpf_ext" in done.err


def test_ctrl_c_leaves_a_run_to_resume(quick_arguments, awpf, tmp_path):
    """A real process, waiting at a known moment for a real signal."""
    driver = """
import sys, time
from awpf_ext import io
from awpf_ext.cli.main import main
def wait(name):
    if name == "synced task_0001.json":
        print("here", file=sys.stderr, flush=True)
        time.sleep(60)
io.atomic.FAULT_HOOK = wait
main()
"""
    whole = awpf("run", *quick_arguments, "--out=whole", "--json").json
    arguments = ["run", *quick_arguments, "--out", str(tmp_path / "run"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-c", driver, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err == (
        f"interrupted: 1 task kept in {tmp_path / 'run'}; "
        "the same command with --resume continues\n"
    )
    resumed = awpf(*arguments, "--resume").json
    for key in ("accuracy_matrix", "records", "forward_transfer"):
        assert resumed[key] == whole[key]


def test_a_second_process_is_told_who_is_in_the_folder(quick_arguments, awpf, tmp_path):
    with io.lock(tmp_path / "run" / "run.lock"):
        done = awpf("run", *quick_arguments, "--out=run")
    assert done.code == 2
    assert f"run is in use by process {os.getpid()}" in done.err


def test_features_fill_the_store_that_run_reads(image_arguments, awpf):
    own = ("--increment=2", "--no-report")
    arguments = [argument for argument in image_arguments if argument not in own]
    report = awpf("features", *arguments, "--json").json
    assert (report["train"], report["test"], report["classes"]) == ([16, 16], [8, 16], 4)
    assert set(report["images_per_second"]) == {"train", "test"}
    again = awpf("features", *arguments)
    assert again.code == 0
    lines = again.out.splitlines()
    assert lines[0] == "folder:images: 16 training and 8 test images, 4 classes"
    assert lines[1] == "tiny random:0 fp32, 16 wide: all were in the store"


def test_an_unreadable_image_stops_a_run_or_is_left_out(image_arguments, awpf, tmp_path):
    (tmp_path / "images" / "train" / "犬" / "2.png").write_bytes(b"not an image")
    stopped = awpf("run", *image_arguments)
    assert stopped.code == 3
    assert "1 image cannot be read" in stopped.err
    assert "images/train/犬/2.png" in stopped.err
    left_out = awpf("run", *image_arguments, "--set", "on_unreadable=skip", "--json")
    assert left_out.code == 0
    assert "warning: 1 image cannot be read and will be skipped" in left_out.err
    assert left_out.json["provenance"]["skipped_images"] == 1


def test_a_wrong_order_shows_before_the_images_are_encoded(image_arguments, awpf, tmp_path):
    assert awpf("run", *image_arguments, "--order=alphabet").code == 2
    assert not (tmp_path / "store").exists()


def test_methods_lists_methods_and_settings(awpf):
    listed = awpf("methods").out
    assert all(name in listed for name in ("zero_shot", "rapf", "awpf", "calfuse", "cub200-b0"))
    assert re.search(r"^on_unreadable +stop +What to do", awpf("methods").out, re.MULTILINE)
    settings = awpf("methods", "awpf").out
    assert re.search(r"^balance_scale +1.0 +lambda", settings, re.MULTILINE)


def test_version_and_help(awpf):
    assert awpf("--version").out == f"awpf_ext {awpf_ext.__version__}\n"
    listed = re.findall(r"^  ([a-z]+)  ", awpf("--help").out, re.MULTILINE)
    expected = "run compare sweep report features predict export merge methods doctor"
    assert listed == expected.split()
    for command in listed:
        assert awpf(command, "--help").code == 0


def test_doctor_says_that_the_cpu_works(awpf):
    done = awpf("doctor")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "all operations work on the CPU"
    report = awpf("doctor", "--json").json
    assert report["works"]
    assert report["build"]["instruction_set"] in report["build"]["instruction_sets_built"]
    for name, reason in report["build"]["instruction_sets_rejected"].items():
        assert re.search(rf"^not {name} +{re.escape(reason)}$", done.out, re.MULTILINE)


def test_doctor_says_what_is_broken(awpf, monkeypatch):
    monkeypatch.setattr("awpf_ext.cli.environment.mmd", lambda *_, **__: torch.zeros(()))
    done = awpf("doctor")
    assert done.code == 1
    assert done.out.splitlines()[-1] == "broken: awpf_ext.mmd gives a wrong result on cpu"
    monkeypatch.setattr("awpf_ext.cli.environment.mmd", None)
    assert awpf("doctor").out.splitlines()[-1].startswith("broken: TypeError")


def test_without_the_extra_the_command_says_what_to_install():
    code = "import sys; sys.modules['typer'] = None; from awpf_ext.cli.main import main; main()"
    run = subprocess.run([sys.executable, "-c", code, "run"], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr == 'awpf: typer is not installed; get it with pip install "awpf_ext[clip]"\n'
    doctor = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, text=True)
    assert doctor.returncode == 0
    assert "all operations work" in doctor.stdout
