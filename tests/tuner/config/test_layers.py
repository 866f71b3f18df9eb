from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tuner.config.registry
from tests.support.examples import examples
from tuner.config.changes import revise
from tuner.config.layers import from_yaml, resolve
from tuner.config.schema import Config
from tuner.errors import UserError

SHIPPED = tuner.config.registry.SHIPPED
SEED = 1000  # of the search

Content = dict[str, Any]

DEFAULTS: Content = {
    "preset": "default", "out": "runs", "name": None,
    "task": {"args": {}, "target": None, "data_dir": None, "check": None},
    "train": {"epochs": 10, "batch_size": 8, "evaluations": 2},
    "search": {"optimizers": ["adam"], "trials": 3, "seed": SEED, "sampler": "tpe", "scheduler": "fifo"},
    "retrain": {"seeds": 2, "epochs": None},
    "resources": {"cpus_per_trial": 1, "gpus_per_trial": None, "max_concurrent": None, "address": None},
}  # fmt: skip
BLOBS: Content = {
    "task": {"class": "pkg.Blobs", "args": {"data_seed": 0}, "metric": "val_loss", "mode": "min", "dataset": "d",
             "datasets": ["d"]},
    "presets": {"smoke": {"search": {"trials": 2}}, "paper": {}},
}  # fmt: skip
ADAM: Content = {
    "class": "pkg.Adam",
    "args": {"betas": [0.9, 0.999], "eps": 1e-8},
    "space": {"lr": {"low": 1e-5, "high": 0.1, "log": True}},
    "defaults": [{"lr": 1e-3}, {"lr": 1e-2}],
}


def write(folder: Path, files: dict[str, Any]) -> Path:
    """A configs folder: name without .yaml -> content."""
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    return folder


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A small folder in place of the shipped one, which takes five times as long to read."""
    optimizers = {f"optimizers/{name}": ADAM for name in ("adam", "adamw", "sgd")}
    folder = write(tmp_path_factory.mktemp("small"), {"defaults": DEFAULTS, "tasks/blobs": BLOBS, **optimizers})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.config.registry, "SHIPPED", folder)
        yield


def blobs(*sets: str, configs: Path | None = None, **flags: Any) -> Config:
    """The task blobs with adam; flags with ``__`` for the dot."""
    base = {"task.name": "blobs", "search.optimizers": ["adam"]}
    return resolve(base | {key.replace("__", "."): value for key, value in flags.items()}, sets, configs)


def refusal(*sets: str, configs: Path | None = None, **flags: Any) -> str:
    with pytest.raises(UserError) as caught:
        blobs(*sets, configs=configs, **flags)
    return one_line(caught.value)


def one_line(error: BaseException) -> str:
    assert not set("\n\r") & set(str(error))
    return str(error)


# The order of the layers.

LAYERS = ["defaults", "optimizer", "task", "preset", "own defaults", "own optimizer", "own task", "own preset", "--set",
          "flag"]  # fmt: skip


def layered(folder: Path, chosen: set[int]) -> Config:
    """The configuration where each layer that was chosen says ``optimizers.adam.args.x`` = its rank."""

    def says(rank: int) -> Content:
        return {"args": {"x": rank}} if rank in chosen else {}

    def within_run(rank: int) -> Content:
        return {"optimizers": {"adam": says(rank)}}

    for first, root in ((0, "shipped"), (4, "own")):
        write(
            folder / root,
            {
                "defaults": within_run(first) | (DEFAULTS if root == "shipped" else {}),
                "optimizers/adam": says(first + 1) | {key: ADAM[key] for key in ("class", "space")},
                "tasks/blobs": BLOBS | within_run(first + 2) | {"presets": {"smoke": within_run(first + 3)}},
            },
        )
    sets = ["optimizers.adam.args.x=8"] if 8 in chosen else []
    flags = {"optimizers.adam.args.x": 9} if 9 in chosen else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.config.registry, "SHIPPED", folder / "shipped")
        return blobs(*sets, configs=folder / "own", preset="smoke", **flags)


@examples(15)
@given(others=st.sets(st.integers(0, len(LAYERS) - 1)), declared=st.integers(0, 7))
def test_the_highest_layer_wins(tmp_path_factory: pytest.TempPathFactory, others: set[int], declared: int) -> None:
    chosen = others | {declared}  # --set may only speak of an argument that some YAML declares
    config = layered(tmp_path_factory.mktemp("layers"), chosen)
    assert config.optimizers["adam"].args == {"x": max(chosen)}


@pytest.mark.parametrize("rank", range(len(LAYERS) - 1), ids=LAYERS[1:])
def test_each_layer_wins_over_the_one_below(tmp_path: Path, rank: int) -> None:
    assert layered(tmp_path, {0, rank, rank + 1}).optimizers["adam"].args == {"x": rank + 1}


@examples(6)
@given(
    st.dictionaries(st.sampled_from(["own defaults", "own task", "own preset", "--set", "flag"]), st.integers(1, 99))
)
def test_the_users_layers_win_over_the_shipped_ones(
    tmp_path_factory: pytest.TempPathFactory, epochs: dict[str, int]
) -> None:
    says = {layer: {"train": {"epochs": value}} for layer, value in epochs.items()}
    task = says.get("own task", {}) | {"presets": {"smoke": says.get("own preset", {})}}
    own = write(tmp_path_factory.mktemp("own"), {"defaults": says.get("own defaults", {}), "tasks/mnist1d": task})
    sets = [f"train.epochs={epochs['--set']}"] if "--set" in epochs else []
    flags = {"train.epochs": epochs["flag"]} if "flag" in epochs else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner.config.registry, "SHIPPED", SHIPPED)
        config = resolve({"task.name": "mnist1d", "preset": "smoke"} | flags, sets, own)
    shipped = yaml.safe_load((SHIPPED / "tasks/mnist1d.yaml").read_text())["train"]["epochs"]
    order = ["flag", "--set", "own preset", "own task", "own defaults"]
    assert config.train.epochs == next((epochs[layer] for layer in order if layer in epochs), shipped)


@pytest.mark.parametrize("where", ["defaults", "tasks/blobs"])
def test_any_layer_may_choose_the_preset(tmp_path: Path, where: str) -> None:
    own = write(tmp_path, {where: {"preset": "smoke"}})
    assert blobs(configs=own).search.trials == 2
    assert blobs("preset=paper", configs=own).search.trials == 3
    assert blobs("preset=smoke", configs=own, preset="paper").search.trials == 3


def test_a_preset_may_choose_the_optimizers(tmp_path: Path) -> None:
    own = write(tmp_path, {"tasks/blobs": {"presets": {"paper": {"search": {"optimizers": ["sgd"]}}}}})
    assert list(resolve({"task.name": "blobs", "preset": "paper"}, [], own).optimizers) == ["sgd"]


def test_of_two_settings_of_a_key_the_last_wins() -> None:
    assert blobs("train.epochs=3", "train.epochs=4").train.epochs == 4


def test_mappings_merge_deeply(tmp_path: Path) -> None:
    own = write(tmp_path, {"optimizers/adam": {"space": {"lr": {"low": 1e-3}}, "args": {"eps": 1e-6}}})
    adam = blobs(configs=own).optimizers["adam"]
    lr = adam.space["lr"]
    assert (lr.low, lr.high, lr.log) == (1e-3, 0.1, True)
    assert adam.args == {"betas": [0.9, 0.999], "eps": 1e-6}


def test_lists_replace(tmp_path: Path) -> None:
    own = write(tmp_path, {"optimizers/adam": {"args": {"betas": [0.5]}, "defaults": [{"lr": 1e-4}]}})
    adam = blobs(configs=own).optimizers["adam"]
    assert adam.args["betas"] == [0.5]
    assert adam.defaults == [{"lr": 1e-4}]


def test_only_the_chosen_optimizers_are_kept_in_the_order_asked(tmp_path: Path) -> None:
    own = write(tmp_path, {"defaults": {"optimizers": {"adamw": {"args": {"eps": 1e-3}}}}})
    config = blobs(configs=own, search__optimizers=["sgd", "adam"])
    assert list(config.optimizers) == config.search.optimizers == ["sgd", "adam"]


# The user's own files.


def test_an_optimizer_is_one_yaml_file(tmp_path: Path) -> None:
    own = write(tmp_path, {"optimizers/mine": {"class": "pkg.Mine", "space": {"step": {"low": 0.1, "high": 1}}}})
    config = blobs(configs=own, search__optimizers=["mine", "adam"])
    assert config.optimizers["mine"].class_ == "pkg.Mine"
    assert config.hyperparameters == ["step", "lr"]


def test_a_task_is_one_yaml_file(tmp_path: Path) -> None:
    task = {"class": "pkg.Mine", "metric": "val_acc", "mode": "max", "dataset": "d", "datasets": ["d"]}
    presets = {"long": {"train": {"epochs": 9}}}
    own = write(tmp_path, {"tasks/mine": {"task": task, "train": {"epochs": 2}, "presets": presets}})
    assert blobs(configs=own, task__name="mine").task.class_ == "pkg.Mine"
    assert blobs(configs=own, task__name="mine").train.epochs == 2
    assert blobs(configs=own, task__name="mine", preset="long").train.epochs == 9
    assert "did you mean 'long'" in refusal(configs=own, task__name="mine", preset="lnog")


def test_a_configs_folder_must_exist(tmp_path: Path) -> None:
    assert refusal(configs=tmp_path / "none") == f"--configs {tmp_path / 'none'}: no such folder"


def of_folder(folder: Path) -> Config:
    return blobs().model_copy(update={"configs": str(folder)})


def test_an_empty_configs_folder_changes_nothing(tmp_path: Path) -> None:
    assert blobs(configs=tmp_path) == of_folder(tmp_path)


@pytest.mark.parametrize("where", ["defaults", "tasks/blobs", "optimizers/adam"])
def test_an_empty_file_changes_nothing(tmp_path: Path, where: str) -> None:
    assert blobs(configs=write(tmp_path, {where: b"\n# nothing yet\n"})) == of_folder(tmp_path)


@pytest.mark.parametrize("where", ["defaults", "tasks/blobs", "optimizers/adam"])
@pytest.mark.parametrize(
    "content",
    [b"- a\n- b\n", b"5\n", b"a: [1\n", b"a:\n\tb: 1\n", bytes(range(256)), "ä: 1".encode("utf-16"),
     b"a: \x00\n", b"a: 1\n---\nb: 2\n", b"a: 1\na: 2\n", b"a: !!python/object:os.system {}\n", b"a: &a [*a]\n",
     b"a: ${\n", b"? [1]\n: 2\n"],
    ids=["list", "number", "broken", "tab", "binary", "utf-16", "nul", "two documents", "key twice",
         "python object", "recursive", "interpolation", "list as key"],
)  # fmt: skip
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, where: str, content: bytes) -> None:
    assert refusal(configs=write(tmp_path, {where: content})).startswith(f"{tmp_path / where}.yaml: ")


def test_a_folder_named_like_a_task_is_none(tmp_path: Path) -> None:
    (tmp_path / "tasks/mine.yaml").mkdir(parents=True)
    assert "task" in refusal(configs=tmp_path, task__name="mine")


@pytest.mark.parametrize("presets", [[1], 5, {"smoke": 5}, {"smoke": ["train.epochs=3"]}])
def test_presets_must_be_mappings(tmp_path: Path, presets: object) -> None:
    own = write(tmp_path, {"tasks/blobs": {"presets": presets}})
    assert refusal(configs=own) == f"{own / 'tasks/blobs.yaml'}: presets must be a mapping of names to settings"


# Unknown names.


@pytest.mark.parametrize(
    ("setting", "wrong", "nearest"),
    [
        ("trian.epochs=3", "trian", "train"),
        ("train.epoch=3", "train.epoch", "epochs"),
        ("search.sead=1", "search.sead", "seed"),
        ("retrain.seed=1", "retrain.seed", "seeds"),
        ("resources.gpu_per_trial=1", "resources.gpu_per_trial", "gpus_per_trial"),
        ("task.datset=a", "task.datset", "dataset"),
        ("optimizers.adam.spaec={}", "optimizers.adam.spaec", "space"),
        ("optimizers.adam.space.lr.lwo=1", "optimizers.adam.space.lr.lwo", "low"),
    ],
)
@pytest.mark.parametrize("source", ["--set", "yaml"])
def test_an_unknown_key_is_refused_with_the_nearest(
    tmp_path: Path, setting: str, wrong: str, nearest: str, source: str
) -> None:
    if source == "--set":
        text, origin = refusal(setting), "--set"
    else:
        key, _, value = setting.partition("=")
        content: Any = yaml.safe_load(value)
        for part in reversed(key.split(".")):
            content = {part: content}
        own = write(tmp_path, {"defaults": content})
        text, origin = refusal(configs=own), str(own / "defaults.yaml")
    assert text.startswith(f"unknown key {wrong!r} (from {origin}); did you mean {nearest!r}? (valid: ")


@pytest.mark.parametrize(
    ("setting", "wrong", "nearest"),
    [
        ("optimizers.adam.space.lrr.low=1", "lrr", "lr"),
        ("optimizers.adam.args.esp=1", "esp", "eps"),
        ("optimizers.adm.args.eps=1", "adm", "adam"),
        ("task.args.data_sed=1", "data_sed", "data_seed"),
    ],
)
def test_a_setting_of_an_unknown_hyperparameter_is_refused_with_the_nearest(
    setting: str, wrong: str, nearest: str
) -> None:
    text = refusal(setting)
    assert repr(wrong) in text
    assert f"did you mean {nearest!r}?" in text


@pytest.mark.parametrize(
    ("flags", "wrong", "nearest"),
    [
        ({"task__name": "blob"}, "task 'blob'", "blobs"),
        ({"task__name": "BLOBS"}, "task 'BLOBS'", "blobs"),
        ({"search__optimizers": ["adam", "agamw"]}, "optimizer 'agamw'", "adamw"),
        ({"preset": "smok"}, "preset of blobs 'smok'", "smoke"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(flags: Content, wrong: str, nearest: str) -> None:
    assert refusal(**flags).startswith(f"unknown {wrong}; did you mean {nearest!r}? (valid: ")


@pytest.mark.parametrize("name", ["../blobs", "tasks/blobs", "/etc/passwd", "..", ".", "", "blobs.yaml", "a\nb"])
def test_names_are_no_paths(name: str) -> None:
    assert repr(name) in refusal(task__name=name)
    assert repr(name) in refusal(search__optimizers=[name])
    assert repr(name) in refusal(preset=name)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("[]", "at least 1"),
        ("adam", "valid list"),
        ("null", "valid list"),
        ("[adam, sgd, adam]", "'adam' is named twice"),
        ("[3]", "unknown optimizer '3'"),
    ],
)
def test_optimizers_are_a_list_of_different_names(names: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve({"task.name": "blobs"}, [f"search.optimizers={names}"])


# Settings and their origin.


@pytest.mark.parametrize("setting", ["", "train.epochs", "=3", "train.epochs:3"])
def test_a_setting_is_a_key_and_a_value(setting: str) -> None:
    assert refusal(setting) == f"--set {setting}: expected key=value, say train.epochs=3"


def test_the_layer_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    own = write(tmp_path, {"defaults": {"train": {"epochs": 0}}})
    assert refusal(configs=own).endswith(f"(from {own / 'defaults.yaml'})")
    assert refusal("train.epochs=0", configs=own).endswith("(from --set)")
    assert refusal(train__epochs=0, configs=own).endswith("(from the command line)")


def test_a_fixed_argument_may_become_searched_and_its_fixed_value_is_left_out() -> None:
    adam = blobs("optimizers.adam.space.eps={low: 1e-9, high: 1e-6, log: true}").optimizers["adam"]
    assert set(adam.space) == {"lr", "eps"}
    assert adam.fixed() == {"betas": (0.9, 0.999)}


# Revising a run's configuration.


def test_revise_changes_those_keys_and_nothing_else() -> None:
    config = blobs()
    expected = config.model_dump(by_alias=True)
    revised = revise(config, {"retrain.seeds": [4, 5], "resources.max_concurrent": 2})
    assert config.model_dump(by_alias=True) == expected
    expected["retrain"]["seeds"] = [4, 5]
    expected["resources"]["max_concurrent"] = 2
    assert revised.model_dump(by_alias=True) == expected


def test_revise_takes_a_number_of_seeds() -> None:
    assert revise(blobs(), {"retrain.seeds": 4}).retrain.seeds == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("retrain.seeds", [SEED], "is the search seed"),
        ("resources.max_concurrent", 0, "resources.max_concurrent: "),
        ("retrain.seed", 3, "did you mean 'seeds'"),
    ],
)
def test_revise_validates_anew(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        revise(blobs(), {key: value})


# Whatever is typed: a configuration, or one line.

keys = st.sampled_from(
    ["train.epochs", "search.trials", "search.optimizers", "optimizers.adam.space.lr.low", "optimizers.adam.args.eps",
     "retrain.seeds", "preset", "name", "task.dataset", "optimizers.adam", "optimizers", "resources.address"]
)  # fmt: skip
typed = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=10)
yaml_like = st.text("[]{}:,-.'\"!&*#|>%@`? 0123456789abenlstrufx", max_size=8)


def taken_or_refused_in_one_line(flags: Content, sets: list[str]) -> None:
    try:
        config = resolve({"task.name": "blobs"} | flags, sets)
    except UserError as error:
        one_line(error)
    else:
        assert from_yaml(config.to_yaml()) == config


@examples(60)
@given(st.lists(typed | st.builds("{}={}".format, typed | keys, typed | yaml_like), min_size=1, max_size=2))
def test_any_setting_is_taken_or_refused_in_one_line(sets: list[str]) -> None:
    taken_or_refused_in_one_line({}, sets)


@examples(25)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "search.optimizers": st.lists(typed, min_size=1, max_size=2), "search.trials": st.integers(),
            "retrain.seeds": st.integers(max_value=3000) | st.lists(st.integers(), max_size=3), "preset": typed,
            "resources.gpus_per_trial": st.floats(), "resources.cpus_per_trial": st.floats(),
            "resources.max_concurrent": st.integers(), "resources.cohort": typed, "resources.address": typed,
            "search.sampler": typed,
            "search.scheduler": typed, "task.data_dir": typed, "task.dataset": typed, "out": typed, "name": typed,
        },
    )
)  # fmt: skip
def test_any_flag_is_taken_or_refused_in_one_line(flags: Content) -> None:
    taken_or_refused_in_one_line(flags, [])
