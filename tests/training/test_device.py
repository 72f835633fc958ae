"""Where members learn.

There need be no GPU: torch's device `meta` computes shapes alone. Like a GPU it refuses what lies elsewhere; and a
number that it is asked for it has not got.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.architectures import ARCHITECTURES
from training.augmentation import Affine
from training.dataset import Dataset, Images
from training.device import choose_device, find_device, gpu_share, most_at_once, threads_of_each
from training.errors import DeviceError
from training.fit import main
from training.learner import Learner, Plan, Tally, train_step
from training.recipe import Recipe
from training.run import SETTINGS_FILE, Run

BRIEF = ["--architecture", "linear", "--epochs", "1", "--members", "1"]
FAST = [*BRIEF, "--processes", "1", "--threads", "1", "--precision", "float32"]


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
class TestWithoutAGPU:
    def test_auto_takes_the_processor(self) -> None:
        assert choose_device("auto") == choose_device("cpu") == "cpu"

    def test_a_gpu_that_is_named_is_never_replaced(self) -> None:
        with pytest.raises(DeviceError, match=r"torch .* sees no CUDA device here; train with --device cpu"):
            choose_device("cuda")

    def test_it_is_said_before_anything_is_made(
        self, drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        assert main(["--data", str(drawn_digits), "--run", str(run), *FAST, "--device", "cuda"]) == 1
        assert "DeviceError: torch" in capsys.readouterr().err
        assert not run.exists()

    def test_a_run_that_began_on_a_gpu_does_not_go_on_elsewhere(
        self, drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = tmp_path / "run"
        assert main(["--data", str(drawn_digits), "--run", str(run), *FAST]) == 0
        (run / "member-1" / "checkpoint.safetensors").unlink()
        settings = Run.open(run).settings.model_copy(update={"device": "cuda"})
        (run / SETTINGS_FILE).write_text(settings.model_dump_json())
        capsys.readouterr()
        assert main(["--resume", str(run), "--processes", "1"]) == 1
        assert "sees no CUDA device here" in capsys.readouterr().err


def test_with_a_gpu_auto_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == "cuda"
    assert choose_device("cpu") == "cpu"


def test_the_device_is_said_first_and_kept_with_the_run(
    drawn_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(drawn_digits), "--run", str(tmp_path / "run"), *FAST, "--device", "cpu"]) == 0
    assert "10 classes; cpu, float32, threads of each member" in capsys.readouterr().out
    assert Run.open(tmp_path / "run").settings.device == "cpu"


def test_a_run_that_knows_no_device_was_trained_on_the_processor(drawn_digits: Path, tmp_path: Path) -> None:
    assert main(["--data", str(drawn_digits), "--run", str(tmp_path / "run"), *FAST]) == 0
    settings = Run.open(tmp_path / "run").settings
    (tmp_path / "run" / SETTINGS_FILE).write_text(settings.model_dump_json(exclude={"device"}))
    assert Run.open(tmp_path / "run").settings == settings


@pytest.mark.parametrize(
    ("name", "at_once", "threads", "processes"),
    [("cpu", 6, 2, 8), ("cpu", 1, 16, 1), ("cpu", 40, 1, 16), ("cuda", 6, 1, 8), ("cuda", 1, 1, 8)],
)
def test_sixteen_cores_are_shared_out(name: str, at_once: int, threads: int, processes: int) -> None:
    """Among the members on processors; on a GPU one is enough for each, and eight members share it at most."""
    device = choose_device("cpu") if name == "cpu" else "cuda"
    assert threads_of_each(device, 16, at_once) == threads
    assert most_at_once(device, 16, threads) == processes


def test_members_on_a_processor_ask_for_no_gpu() -> None:
    assert (gpu_share("cpu"), gpu_share("cuda")) == (0, 1 / 8)


@pytest.fixture
def _optimizer_of_many_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused one does the same, and knows processors and GPUs alone."""
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda weights, fused, **rest: adamw(weights, foreach=fused, **rest))


@pytest.mark.usefixtures("_optimizer_of_many_kernels")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_happens_on_its_device_and_waits_for_nothing(architecture: str) -> None:
    recipe = Recipe(
        name="tiny",
        architectures=(architecture,),
        epochs=1,
        batch_images=8,
        average_decay=0.9,
        affines=(Affine(rotation_degrees=5, shift=0.1),),
        flip=True,
    )
    images = Images(torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(8))
    learner = Learner(
        Plan(recipe, 1, 1, torch.float32, device="meta"), Dataset(images, images, images, tuple("01234567"), "")
    )
    learner.network.train()
    tally = Tally(learner.device)
    for _ in range(2):
        batch = images.on(learner.device).select(torch.arange(8, device=learner.device))
        tally.add(*train_step(learner, batch, 1e-3, torch.Generator()))
    assert all(weight.device == find_device("meta") for weight in learner.network.parameters())
    with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):
        _ = tally.loss_sum
