"""The folder of a run: its status, who may write to it, and what belongs to it."""

from __future__ import annotations

import pytest

from awpf_ext.errors import CheckpointError, UserError
from awpf_ext.methods import create_method
from awpf_ext.runs.config import ConfigLayer, resolve_config
from awpf_ext.runs.diagnostics import collect_diagnostics
from awpf_ext.runs.folder import RunFolder, RunStatus
from awpf_ext.runs.trainer import train


def config_of(**keys):
    layer = {"dataset": "features:a.npz", "method": "zero_shot", "increment": 3, **keys}
    return resolve_config([ConfigLayer("test", layer)]).config


def test_status_from_an_empty_folder_to_a_finished_run(make_stream, tmp_path):
    stream, config = make_stream(), config_of()
    folder = RunFolder(tmp_path / "run")
    assert folder.status(config) == RunStatus("empty")
    assert not folder.path.exists()  # to ask is not to write
    folder.create(config, stream)
    assert folder.status(config) == RunStatus("unfinished")
    method = create_method("zero_shot", stream)
    result = train(stream, method, folder=folder)
    assert folder.status(config) == RunStatus("unfinished", len(stream))
    folder.finish(config, result, collect_diagnostics(stream, method))
    opened = RunFolder(tmp_path / "run")
    assert opened.status(config) == RunStatus("finished", len(stream), result)
    assert opened.config() == config
    assert opened.class_texts().class_names == tuple(stream.class_names)
    assert len(opened.diagnostics().labels) == sum(result.test_images)


def test_another_run_is_refused_also_when_it_was_started_in_between(make_stream, tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.status(config_of(seed=1)).state == "empty"
    RunFolder(tmp_path).create(config_of(), make_stream())
    message = "belongs to another run: seed is 0 there, 1 here"
    with pytest.raises(CheckpointError, match=message):
        folder.create(config_of(seed=1), make_stream())
    with pytest.raises(CheckpointError, match=message):
        folder.status(config_of(seed=1))


def test_only_one_process_writes_and_its_blocks_may_be_nested(make_stream, tmp_path):
    folder = RunFolder(tmp_path)
    with folder.hold():
        with folder.hold():
            pass
        with pytest.raises(UserError, match="is in use by process"), RunFolder(tmp_path).hold():
            pass
        folder.create(config_of(), make_stream())
    with RunFolder(tmp_path).hold():
        assert folder.is_run
