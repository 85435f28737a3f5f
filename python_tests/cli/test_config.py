"""Layers of configuration keys, and the errors for wrong keys and values."""

from __future__ import annotations

from pathlib import Path

import pytest

from awpf_ext.errors import CheckpointError, UserError
from awpf_ext.finetuning.roles import Role, keys_with
from awpf_ext.finetuning.trainable_config import TrainableConfig
from awpf_ext.methods import METHODS
from awpf_ext.runs.config import (
    RUN_KEYS,
    ConfigLayer,
    RunConfig,
    parse_assignments,
    parse_value,
    read_config_file,
    resolve_config,
)
from awpf_ext.runs.folder import RunFolder
from awpf_ext.runs.run import RunOutcome
from awpf_ext.runs.sweep import SweepRun, run_sweep

DATA = {"dataset": "features:clip.npz"}


def of(**values):
    return resolve_config([ConfigLayer("test", {**DATA, **values})]).config


def create_run(folder, config):
    """A run that was started in `folder`."""
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")


def test_later_layers_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("dataset: cifar100\nmethod: rapf\nincrement: 5\nbeta: 3\nbatch_size: 7\n")
    layers = [
        read_config_file(file),
        ConfigLayer("options", {"preset": "cifar100-b0-inc10", "increment": 20, "batch_size": 8}),
        parse_assignments(["batch_size=9", "rapf.mask_bias=0.25"]),
    ]
    config = resolve_config(layers).config
    assert (config.dataset, config.method, config.increment) == ("cifar100", "rapf", 20)
    settings = config.settings
    assert settings.batch_size == 9  # --set over options over file over preset
    assert settings.beta == 3  # file over preset
    assert settings.hinge_threshold == 0.55  # preset over default
    assert settings.mask_bias == 0.25
    assert settings.epochs == 15  # default


def test_settings_of_another_method_are_named_and_left_out():
    configured = resolve_config(
        [ConfigLayer("options", {**DATA, "method": "zero_shot", "init": "uniform"})]
    )
    assert configured.unused == ("init",)
    assert resolve_config([ConfigLayer("options", {**DATA, "init": "uniform"})]).unused == ()


def test_a_methods_own_settings_are_for_it_alone():
    layer = ConfigLayer("file", {**DATA, "rapf": {"epochs": 3}, "awpf": {"rank": 5}})
    assert (
        resolve_config([layer, ConfigLayer("options", {"method": "rapf"})]).config.settings.epochs
        == 3
    )
    assert resolve_config([layer]).config.settings.epochs == 15
    assert resolve_config([layer]).config.settings.rank == 5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"incremnt": 3}, "test: there is no key 'incremnt'; did you mean 'increment'?"),
        ({"epocs": 3}, "test: there is no key 'epocs'; did you mean 'epochs'?"),
        ({"awfp": {"rank": 3}}, "test: there is no key 'awfp'; did you mean 'awpf'?"),
        ({"awpf": {"rnk": 3}}, "test: awpf has no setting 'rnk'; did you mean 'rank'?"),
        ({"rapf": {"rank": 3}}, "test: rapf has no setting 'rank'"),
        ({"awpf": 3}, "test: awpf is 3; expected settings of that method"),
        ({"method": "awfp"}, "method is 'awfp'; did you mean 'awpf'?"),
        ({"preset": "cifar"}, "preset is 'cifar'; expected one of cifar100-b0-inc10"),
        ({"increment": 0}, "increment is 0; expected greater than or equal to 1"),
        ({"increment": "x"}, "increment is 'x'; expected a valid integer"),
        ({"precision": "fp8"}, "precision is 'fp8'; expected 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"prompt": []}, "prompt is []"),
        ({"epochs": -1}, "awpf: epochs is -1"),
        ({"dataset": None}, "there is no data set: give --dataset"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(UserError) as error:
        of(**values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("null", None),
        ("true", True),
        ("[4, 10]", [4, 10]),
        ("seed:1993", "seed:1993"),
        ("a photo of a {}.", "a photo of a {}."),
        ("{}", "{}"),
        ("a: b: c", "a: b: c"),
        ("", None),
    ],
)
def test_values_are_read_as_yaml_or_text(text, value):
    assert parse_value(text) == value


def test_assignments():
    layer = parse_assignments(["learning_rate=1e-3", "prompt=a = {}", "awpf.rank=3", "awpf.beta=2"])
    config = resolve_config([ConfigLayer("options", DATA), layer]).config
    assert config.settings.learning_rate == 1e-3
    assert config.prompt == "a = {}"
    assert (config.settings.rank, config.settings.beta) == (3, 2)
    for wrong in ("epochs", "=3"):
        with pytest.raises(UserError, match="expected key=value"):
            parse_assignments([wrong])
    with pytest.raises(UserError, match=r"no key 'awfp\.rank'"):
        resolve_config([ConfigLayer("options", DATA), parse_assignments(["awfp.rank=3"])])


def test_a_file_that_is_no_configuration(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the configuration .*No such file"):
        read_config_file(tmp_path / "none.yaml")
    file = tmp_path / "bad.yaml"
    file.write_text("a: [1, 2")
    with pytest.raises(UserError, match=r"bad.yaml is not YAML.*line 1"):
        read_config_file(file)
    file.write_text("- a\n- b\n")
    with pytest.raises(UserError, match="holds a list; expected keys and values"):
        read_config_file(file)
    file.write_text("")
    assert read_config_file(file).values == {}


def test_a_written_configuration_is_read_back(tmp_path):
    config = of(method="rapf", prompt=["ein {}", "il {}"], beta=2, class_names="ä.txt")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert resolve_config([read_config_file(file)]).config == config
    assert config.class_names == Path("ä.txt")


def test_the_identity_is_what_a_result_follows_from():
    config = of()
    assert config.identity() == of(threads=2, workers=3, device="cpu", store="x").identity()
    assert config.identity() == of(model="RN50").identity()  # ready-made features
    for change in ({"seed": 1}, {"base": 2}, {"rank": 3}, {"method": "rapf"}, {"order": "natural"}):
        assert config.identity() != of(**change).identity()
    images = of(dataset="folder:a")
    assert images.identity() != of(dataset="folder:a", model="RN50").identity()


def test_a_limit_makes_another_run(tmp_path):
    create_run(tmp_path, of())
    with pytest.raises(CheckpointError, match="train_limit is None there, 5 here"):
        RunFolder(tmp_path).status(of(train_limit=5))


FILES = {"dataset", "class_names", "pretrained"}
LIMITS = {"train_limit", "test_limit", "imbalance"}
FEATURES = {*FILES, *LIMITS, "model", "precision", "prompt", "on_unreadable"}
RUN = {"protocol", "base", "increment", "order", "method", "seed", "settings"}
MACHINE = {"store", "cache_dir", "device", "threads", "workers", "encode_batch"}
ONLY_IMAGES = {"class_names", "model", "pretrained", "precision", "prompt", "on_unreadable"}


def test_every_key_has_its_role():
    assert set(of().features_identity()) == FEATURES
    assert set(keys_with(RunConfig, Role.FILES)) == FILES
    assert set(keys_with(RunConfig, Role.RUN)) == RUN
    assert set(keys_with(RunConfig, Role.MACHINE)) == MACHINE
    assert set(RunConfig.model_fields) == {*FEATURES, *RUN, *MACHINE, "preset"}
    for name, method in METHODS.items():
        fine_tuned = issubclass(method.Config, TrainableConfig)
        changeable = {"checkpointing", "micro_batch"} if fine_tuned else set()
        assert set(keys_with(method.Config, Role.MACHINE)) == changeable, name


def test_an_identity_has_what_counts_in_the_run():
    images = of(dataset="folder:a").identity()
    settings = {f"awpf.{key}" for key in METHODS["awpf"].Config.model_fields}
    assert set(images) == {*FEATURES, *RUN, *settings} - {"settings"}
    assert set(of().identity()) == set(images) - ONLY_IMAGES  # of ready-made features
    domains = of(dataset="folder:a", protocol="domain", method="gcl").identity()
    settings = {f"gcl.{key}" for key in METHODS["gcl"].Config.model_fields}
    changeable = {"gcl.checkpointing", "gcl.micro_batch"}
    expected = {*FEATURES, *RUN, *settings} - {"settings", "base", "increment", *changeable}
    assert set(domains) == expected


@pytest.fixture
def with_new_key(monkeypatch):
    """RunConfig with one more key, whose declaration says no more than type and default."""

    class WithNewKey(RunConfig):
        sharpen: float = 0.0

    monkeypatch.setattr("awpf_ext.runs.config.RunConfig", WithNewKey)
    monkeypatch.setattr("awpf_ext.runs.config.RUN_KEYS", (*RUN_KEYS, "sharpen"))


@pytest.mark.usefixtures("with_new_key")
def test_a_key_without_a_role_never_reuses_features(monkeypatch, tmp_path):
    loaded = []
    monkeypatch.setattr(
        "awpf_ext.runs.run.load_features", lambda config, *_: loaded.append(config) or 1
    )
    monkeypatch.setattr(
        "awpf_ext.runs.sweep.run_configured",
        lambda config, folder, *, load, **_: RunOutcome(load(config, None), False),
    )
    changes = ({}, {"seed": 1, "threads": 2}, {"sharpen": 1}, {"sharpen": 2})
    run_sweep([SweepRun("a", "natural", 0, of(**changed), tmp_path) for changed in changes])
    assert [config.sharpen for config in loaded] == [0, 1, 2]


@pytest.mark.usefixtures("with_new_key")
def test_a_key_without_a_role_makes_another_run(tmp_path):
    create_run(tmp_path, of())
    RunFolder(tmp_path).status(of(threads=2))
    with pytest.raises(CheckpointError, match=r"sharpen is 0\.0 there, 1\.0 here"):
        RunFolder(tmp_path).status(of(sharpen=1))
