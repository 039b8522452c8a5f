import dataclasses
import itertools
import re
import shlex
import shutil
import typing
from pathlib import Path
from types import NoneType

import keras
import pytest

from utils.training.config import INCIDENTAL, NAMED, RunConfig
from utils.training.recipes import RECIPES

FIELDS = dataclasses.fields(RunConfig)
TYPES = {name: typing.get_args(t) or (t,) for name, t in typing.get_type_hints(RunConfig).items()}
WRONG = {  # what no field of a type takes; of each value, its text is in the error
    bool: ["yes", " ", 2, 0.5, 1.0, []],
    int: [True, "three", " ", 3.7, "3.7", [3]],
    float: [True, "x", " ", "nan", "inf", [0.5]],
    str: [True, 42, 2024, 0.5, "", " ", ["a"]],
}


def wrong_values():
    """For every field what none of its types takes, and None where it is not among them."""
    for name, types in TYPES.items():
        for value in itertools.chain(*(WRONG.get(kind, []) for kind in types)):
            if type(value) not in types or not str(value).strip():
                yield name, value
        if NoneType not in types:
            yield name, None


@pytest.mark.parametrize(("name", "value"), list(wrong_values()))
def test_each_field_refuses_values_of_another_type_by_its_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*\. Received: ") as error:
        RunConfig(**{name: value})
    assert str(error.value).endswith(repr(value))


@pytest.mark.parametrize("name", [name for name, types in TYPES.items() if bool in types])
def test_truth_as_yaml_and_papermill_write_it(name):
    for value in (True, "true", "True", 1, "1"):
        assert getattr(RunConfig(**{name: value}), name) is True
    for value in (False, "false", "False", 0, "0"):
        assert getattr(RunConfig(**{name: value}), name) is False


@pytest.mark.parametrize("name", [name for name, types in TYPES.items() if {int, float} & {*types}])
def test_numbers_as_papermill_writes_them(name):
    text, value = ("64", 64) if int in TYPES[name] else ("0.25", 0.25)
    own = {"dataset": "folder", "archive": "photos"}
    needs = {"plateau_patience": {"warmup": 0}, "image_size": own, "val_share": own}
    found = getattr(RunConfig(**{name: text}, **needs.get(name, {})), name)
    assert (found, type(found)) == (value, type(value))


def test_what_distinguishes_runs_is_in_their_names():
    always = {"preset", "recipe", "dataset", "epochs", "seed"}
    assert {field.name for field in FIELDS} == {*NAMED, *INCIDENTAL, *always}


@pytest.mark.parametrize("name", [name for name, types in TYPES.items() if float in types])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_is_infinite(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number.*Received: {value}"):
        RunConfig(**{name: value})


def test_numbers_as_yaml_reads_them():
    config = RunConfig(learning_rate="1e-3", l2="5e-4", dropout=0, epochs="8")
    assert (config.learning_rate, config.l2, config.epochs) == (1e-3, 5e-4, 8)
    assert type(config.dropout) is float
    assert config.run_id == "simple-tuned-v2-8ep-dropout-0.0-learning-rate-0.001-l2-0.0005-seed0"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("preset", "huge", "simple, medium, complex"),
        ("dataset", "cifar", "dataset must be one of tiny-imagenet, tiny-shapes"),
        ("recipe", "best", "recipe must be one of course, tuned"),
        ("task", "detection", "task must be one of classification, localization, segmentation"),
        ("stem", "quarter", "stem must be one of imagenet, half, full"),
        ("precision", "mixed_float16", "one of float32, mixed_bfloat16, auto"),
        ("split", "test", "split must be one of val, holdout"),
        ("record_order", "shufled", "record_order must be one of shuffled, classes"),
        ("kind", "benchmark", "kind must be one of train, ablation"),
        ("distribution", "all", "distribution must be one of auto, none"),
        ("optimizer", "lion", "optimizer must be one of sgd, momentum, adam, adamw, rmsprop, muon"),
        ("down_sampling", "stride", "max_pool, max_pool_3x3, average_pool, convolution"),
        ("epochs", 0, "epochs must be a whole number of at least 1"),
        ("batch_size", -1, "batch_size must be a whole number of at least 1"),
        ("blocks", 0, "blocks must be a whole number of at least 1"),
        ("seed", -1, "seed must be a whole number from 0 to 2**32 - 1"),
        ("seed", 2**32, "seed must be a whole number from 0 to 2**32 - 1"),
        ("width", 0.3, "width must be a positive multiple of 1/64"),
        ("dropout", 1.0, "[0, 1)"),
        ("batch_norm_momentum", 1.0, "batch_norm_momentum must be a number in [0, 1)"),
        ("flip", "never", "flip must be one of random, alternating"),
        ("crop_area", 0.0, "crop_area must be in (0, 1]"),
        ("crop_area", 1.5, "crop_area must be in (0, 1]"),
        ("cutmix", 1.5, "cutmix must be in [0, 1]"),
        ("label_smoothing", -0.1, "label_smoothing must be in [0, 1)"),
        ("ema", 1.0, "ema must be in [0, 1)"),
        ("fraction", 0.0, "fraction must be a number in (0, 1]"),
        ("learning_rate", 0.0, "learning_rate must be above 0"),
        ("warmup", 1.0, "warmup must be in [0, 1)"),
        ("plateau_patience", -1, "plateau_patience must be at least 0"),
        ("l2", -1.0, "l2 must be at least 0"),
        ("checkpoint_every", "5 minutes", 'or of steps as in "500 steps"'),
        ("checkpoint_every", 0, 'or of steps as in "500 steps"'),
        ("run_dir", ".", "run_dir must be the path of a folder"),
        ("run_dir", "runs/..", "run_dir must be the path of a folder"),
        ("initial_weights", "none", "initial_weights must be a .keras file that exists"),
    ],
)
def test_values_out_of_range_are_refused_with_the_valid_ones(name, value, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        RunConfig(**{name: value})
    assert text in str(error.value)
    assert str(error.value).endswith(repr(value))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"plateau_patience": 3},
            "Set one of them to 0. Received: warmup=0.15, plateau_patience=3",
        ),
        (
            {"recipe": "course", "warmup": 0.1},
            "Set one of them to 0. Received: warmup=0.1, plateau_patience=3",
        ),
        (
            {"task": "segmentation"},
            "task segmentation needs dataset tiny-shapes. Received: dataset",
        ),
        (
            {"task": "segmentation", "dataset": "tiny-shapes", "preset": "resnet50"},
            "task segmentation needs a FishNet or unet. Received: preset='resnet50'",
        ),
        (
            {"dataset": "imagenet", "archive": "x", "record_order": "classes"},
            "record_order must be shuffled for dataset imagenet. Received: 'classes'",
        ),
        (
            {"recipe": "course", "schedule": "linear"},
            "schedule linear needs plateau_patience=0. Received: plateau_patience=3",
        ),
        (
            {"task": "localization", "record_order": "classes"},
            "record_order must be shuffled for any task but classification. Received: 'classes'",
        ),
        ({"preset": "unet", "width": 0.25}, "width can be changed in a FishNet only."),
        (
            {"preset": "unet", "stem": "half"},
            "stem must be left at its default for preset unet, which has none and starts at full "
            "resolution. Received: stem='half'",
        ),
        (
            {"recipe": "course", "evaluate_every": 5},
            "evaluate_every must be 1 where plateau_patience lowers the learning rate by the "
            "validation loss. Received: evaluate_every=5",
        ),
        (
            {"image_sizes": 32},
            'image_sizes must be "full", or sizes in pixels and their shares of ',
        ),
        (
            {"image_sizes": "32x1-48x1"},
            "total stride, 32 with stem='imagenet': 32, 64. Received: '32x1-48x1'",
        ),
        ({"image_sizes": "40x1", "stem": "half"}, "16 with stem='half': 16, 32, 48, 64."),
        (
            {"image_sizes": "32x1", "task": "localization"},
            'image_sizes must be "full" for any task but classification',
        ),
        (
            {"crop_area": 0.25, "task": "localization"},
            "crop_area must be 1 for any task but classification",
        ),
        (
            {"crop_area": 0.25, "dataset": "imagenet", "archive": "records"},
            "and for dataset imagenet, which has its own crops. Received: crop_area=0.25",
        ),
        (
            {"crop_area": 0.25, "recipe": "course"},
            "set augment to true. Received: augment=False, crop_area=0.25, flip='random', cutmix",
        ),
        (
            {"cutmix": 0.5, "recipe": "course"},
            "crop_area, flip and cutmix apply only to augmented images",
        ),
        (
            {"cutmix": 0.5, "task": "segmentation", "dataset": "tiny-shapes"},
            "cutmix must be 0 for any task but classification: boxes and masks are not mixed.",
        ),
        ({"image_size": 0}, "image_size must be None for any dataset but folder and imagenet"),
        (
            {"image_size": 0, "dataset": "folder", "archive": "photos"},
            "image_size must be from 32 to 512",
        ),
        ({"preset": "resnet50", "zero_init": True}, "zero_init cannot be changed in resnet50"),
    ],
)
def test_combinations_that_cannot_be_trained_are_refused(changes, text):
    with pytest.raises(ValueError, match="Received: ") as error:
        RunConfig(**changes)
    assert text in str(error.value)


def test_the_last_epoch_is_always_evaluated():
    assert RunConfig(epochs=3).evaluated_epochs == [1, 2, 3]
    assert RunConfig(epochs=7, evaluate_every=3).evaluated_epochs == [3, 6, 7]
    assert RunConfig(epochs=6, evaluate_every=3).evaluated_epochs == [3, 6]
    assert RunConfig(epochs=2, evaluate_every=5).evaluated_epochs == [2]


def test_what_excludes_another_can_be_set_to_zero():
    assert RunConfig(plateau_patience=3, warmup=0).full_recipe.plateau_patience == 3
    assert RunConfig(recipe="course", warmup=0.1, plateau_patience=0).full_recipe.warmup == 0.1


def test_defaults_and_names():
    config = RunConfig().resolve()
    assert (config.epochs, config.batch_size, config.checkpoint_every) == (8, 256, 1)
    assert (config.data_dir, config.results_dir) == ("data/tiny-imagenet", "report/results")
    assert config.run_dir == "runs/simple-tuned-v2-8ep-seed0"
    assert config.command == (
        "papermill notebooks/03_train.ipynb report/executed/simple-tuned-v2-8ep-seed0.ipynb "
        "-p preset simple -p recipe tuned -p epochs 8 -p seed 0"
    )
    other = RunConfig(preset="complex", recipe="course", stem="half", data_dir="elsewhere")
    assert other.run_id == "complex-course-30ep-stem-half-seed0"
    assert other.command.endswith("-p seed 0 -p data_dir elsewhere -p stem half")
    shapes = RunConfig(dataset="tiny-shapes").resolve()
    assert (shapes.batch_size, shapes.data_dir) == (64, "data/tiny-shapes")
    assert shapes.results_dir == shapes.run_dir == "runs/tiny-shapes-simple-tuned-v2-8ep-seed0"
    assert shapes.result_file == Path(shapes.run_dir, f"{shapes.run_id}.json")
    on_a_drive = RunConfig(runs_dir="/content/drive/My Drive/runs/").resolve()
    assert on_a_drive.run_dir == "/content/drive/My Drive/runs/simple-tuned-v2-8ep-seed0"
    assert on_a_drive.results_dir == on_a_drive.weights_dir == on_a_drive.run_dir
    assert on_a_drive.command.endswith(" -p runs_dir '/content/drive/My Drive/runs'")
    assert not on_a_drive.differences(RunConfig().resolve().identity())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"recipe": "course"},
        {"dataset": "tiny-shapes", "task": "segmentation"},
        {"dataset": "tiny-shapes", "results_dir": "report/results"},
        {"run_dir": "runs/other", "checkpoint_every": "500 steps", "epochs": 8},
    ],
)
def test_resolving_changes_neither_command_nor_identity(changes):
    config = RunConfig(**changes)
    resolved = config.resolve()
    assert all(getattr(resolved, name) == value for name, value in changes.items())
    derived = {"epochs", "batch_size", *INCIDENTAL} - {"archive"}
    assert None not in [getattr(resolved, name) for name in derived]
    assert resolved.resolve() == resolved
    assert resolved.command == config.command
    assert resolved.identity() == config.identity()
    assert resolved.result_file == config.result_file


def test_what_follows_from_other_fields_follows_their_changes():
    config = RunConfig()
    assert config.run_dir is None
    assert dataclasses.replace(config, seed=1).resolve().run_dir == "runs/simple-tuned-v2-8ep-seed1"
    assert dataclasses.replace(config, recipe="course").resolve().epochs == 30
    assert dataclasses.replace(config, dataset="tiny-shapes").resolve().data_dir == (
        "data/tiny-shapes"
    )
    assert dataclasses.replace(RunConfig(epochs=3), recipe="course").resolve().epochs == 3


def test_the_command_is_one_for_a_shell_whatever_the_run_is_called():
    config = RunConfig(run_dir="/content/drive/MyDrive/first run (1)")
    assert shlex.split(config.command)[2] == f"report/executed/{config.run_id}.ipynb"


def test_differences_of_two_runs():
    config = RunConfig(seed=3, batch_size=48)
    identity = {**config.identity(), "manifest_sha256": "a"}
    assert config.differences(identity, "a") == {}
    moved = dataclasses.replace(config, run_dir="elsewhere", data_dir="there", tensorboard=True)
    assert moved.differences(identity, "a") == {}
    assert RunConfig().differences(identity, "b") == {
        "batch_size": (48, 256),
        "manifest_sha256": ("a", "b"),
        "seed": (3, 0),
    }
    default = RunConfig().identity() | {"manifest_sha256": "a"}
    assert RunConfig(l2=0.0).differences(default, "a") == {"l2": (5e-4, 0.0)}
    spelled_out = RunConfig(optimizer="muon", learning_rate=0.02)
    assert spelled_out.differences(RunConfig().identity() | {"manifest_sha256": "a"}, "a") == {}


def test_with_precision_auto_a_run_is_the_one_of_any_precision():
    for precision in ("float32", "mixed_bfloat16"):
        identity = RunConfig(precision=precision).identity() | {"manifest_sha256": "a"}
        assert RunConfig(precision="auto").differences(identity, "a") == {}
        other = {"float32": "mixed_bfloat16", "mixed_bfloat16": "float32"}[precision]
        assert RunConfig(precision=other).differences(identity, "a") == {
            "precision": (precision, other)
        }


def test_identities_of_older_versions():
    older = RunConfig(recipe="course").identity() | {"manifest_sha256": "a"}
    older |= {"stochastic_depth": None}
    del older["eager"]  # did not exist yet
    older["label_smoothing"] = older["recipe_fields"].pop("label_smoothing")  # was not part of it
    assert RunConfig(recipe="course").differences(older, "a") == {}
    older["stochastic_depth"] = 0.2
    assert RunConfig(recipe="course").differences(older, "a") == {"stochastic_depth": (0.2, None)}
    # There was a window from which each image was drawn.
    for order, window, differences in (
        ("shuffled", 20_000, {}),
        ("classes", 1000, {}),
        ("shuffled", 1000, {"shuffle_window": (1000, None)}),
    ):
        older = RunConfig(record_order=order).identity() | {"shuffle_window": window}
        del older["input"]
        assert RunConfig(record_order=order).differences(older) == differences


def test_a_recipe_of_another_version_keeps_its_name_and_its_results_apart(monkeypatch):
    monkeypatch.setitem(RECIPES, "tuned", RECIPES["tuned-v1"])
    first, former = RECIPES["tuned"], RunConfig(seed=1).resolve()
    of_former = former.identity() | {"manifest_sha256": "a"}
    name = former.run_id
    second = dataclasses.replace(first, l2=1e-4, ema=0.99, batch_size=128, version=2)
    monkeypatch.setitem(RECIPES, "tuned", second)
    current, again = RunConfig(seed=1), RunConfig(recipe="tuned-v1", seed=1)
    assert name == again.run_id == "simple-tuned-8ep-seed1"
    assert current.run_id == "simple-tuned-v2-8ep-seed1"
    assert (current.resolve().batch_size, again.resolve().batch_size) == (128, 256)
    assert again.differences(of_former, "a") == {}
    assert current.differences(of_former, "a") == {
        "batch_size": (256, 128),
        "ema": (0.0, 0.99),
        "l2": (5e-4, 1e-4),
        "recipe": ("tuned-v1", "tuned"),
        "version": (1, 2),
    }
    identity = current.identity() | {"manifest_sha256": "a"}
    third = dataclasses.replace(second, version=3)
    monkeypatch.setitem(RECIPES, "tuned", third)
    monkeypatch.setitem(RECIPES, "tuned-v2", second)
    assert RunConfig(recipe="tuned-v2", seed=1).run_id == "simple-tuned-v2-8ep-seed1"
    assert RunConfig(recipe="tuned-v2", seed=1).differences(identity, "a") == {}


class TestOwnPictures:
    @staticmethod
    def config(**changes):
        return RunConfig(**{"dataset": "folder", "archive": "/photos/my pets.zip", **changes})

    def test_all_that_follows_from_it(self):
        config = self.config().resolve()
        assert config.data_dir == "data/folder-my-pets-5dc34b-image-size-64-val-share-0.1"
        assert config.run_id == "folder-my-pets-5dc34b-simple-tuned-v2-30ep-seed0"
        assert config.run_dir == config.results_dir == f"runs/{config.run_id}"
        assert (config.epochs, config.batch_size) == (30, 32)
        assert config.data_options == {"image_size": 64, "val_share": 0.1}
        assert RunConfig().data_options == {}

    def test_options_are_in_the_names(self):
        config = self.config(image_size="96", val_share=0.25)
        assert config.run_id.endswith("-30ep-image-size-96-val-share-0.25-seed0")
        assert config.resolve().data_dir.endswith("-image-size-96-val-share-0.25")
        assert "-p archive '/photos/my pets.zip'" in config.command
        assert "-p image_size 96" in config.command

    def test_folders_of_one_name_do_not_collide(self):
        names = {self.config(archive=f"/{place}/pets").run_id for place in "ab"}
        assert len(names) == 2
        assert self.config(archive="/a/x/../pets").run_id in names
        assert self.config(archive=None, data_dir="/records/pets").run_id not in names

    def test_another_place_of_the_same_pictures_is_no_other_run(self):
        there = {**self.config().identity(), "manifest_sha256": "x"}
        assert self.config(archive="/elsewhere/pets").differences(there, "x") == {}
        assert self.config(image_size=96).differences(there) == {"image_size": (64, 96)}

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"archive": None}, "archive must be the folder, zip or tar of class folders with the "
             "pictures. Received: archive=None"),
            ({"task": "localization"}, "task must be classification for dataset folder, which "
             "has no boxes and no masks here. Received: task='localization'"),
            ({"image_size": 100}, "image_size must be from 32 to 512 and a multiple of the "
             "network's total stride, 32 with stem='imagenet'; nearest: 96 and 128. "
             "Received: image_size=100"),
            ({"image_size": 72, "stem": "half"}, "image_size must be from 32 to 512 and a multiple "
             "of the network's total stride, 16 with stem='half'; nearest: 64 and 80. "
             "Received: image_size=72"),
            ({"image_size": 16}, "nearest: 32 and 64. Received: image_size=16"),
            ({"image_size": 1000}, "nearest: 480 and 512. Received: image_size=1000"),
            ({"preset": "resnet50", "image_size": 513}, "nearest: 511 and 512."),
            ({"image_size": 96, "image_sizes": "64x1-128x1"}, "image_sizes must be multiples of "
             "the network's total stride, 32 with stem='imagenet': 32, 64, 96. "
             "Received: '64x1-128x1'"),
            ({"preset": "densenet121", "image_sizes": "16x1-64x1"}, "total stride, 1 with "
             "stem='imagenet': from 32 to 64. Received: '16x1-64x1'"),
            ({"val_share": 1}, "val_share must be a number in (0, 1). Received: 1"),
            ({"dataset": "tiny-shapes", "image_size": 32}, "image_size must be None for any "
             "dataset but folder and imagenet. Received: dataset='tiny-shapes'"),
        ],
    )  # fmt: skip
    def test_what_is_refused(self, changes, text):
        with pytest.raises(ValueError, match=re.escape(text)):
            self.config(**changes)

    def test_sizes_that_are_taken(self):
        for changes in ({"image_size": 512}, {"image_size": 80, "stem": "half"},
                        {"preset": "resnet50", "image_size": 33}):  # fmt: skip
            assert self.config(**changes).image_size == changes["image_size"]


def test_folders_may_be_in_the_home_folder_and_end_in_a_slash(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = RunConfig(data_dir="~/data", run_dir="~/runs/a", weights_dir="~/weights")
    assert (config.data_dir, config.run_dir) == ("/home/me/data", "/home/me/runs/a")
    assert config.weights_dir == "/home/me/weights"
    for same in ("runs", "runs/", "./runs"):
        config = RunConfig(runs_dir=same).resolve()
        assert (config.results_dir, config.weights_dir) == ("report/results", "report/weights")


def test_imagenet_has_no_holdout():
    with pytest.raises(ValueError, match="split must be val for dataset imagenet, .*'holdout'"):
        RunConfig(dataset="imagenet", archive="/imagenet", split="holdout")


@pytest.mark.parametrize(
    ("file", "name"),
    [("a/model.keras", "a"), ("b/model.keras", "b"), ("a/model_ema.keras", "a"), ("c.keras", "c")],
)
def test_starts_from_different_runs_have_names_of_their_own(tmp_path, file, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / file).touch()
    config = RunConfig(initial_weights=str(tmp_path / file))
    assert config.run_id == f"simple-tuned-v2-8ep-initial-weights-{name}-seed0"


def test_a_start_may_have_moved_but_not_changed(tmp_path):
    starts = [tmp_path / name for name in ("a.keras", "b.keras", "c.keras")]
    for path in (starts[0], starts[2]):
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(path)
    shutil.copy(*starts[:2])
    first, moved, other = (RunConfig(initial_weights=str(path)) for path in starts)
    assert moved.differences(first.identity()) == {}
    assert "initial_weights_crc32" in other.differences(first.identity())
    assert "initial_weights" in RunConfig().differences(first.identity())
