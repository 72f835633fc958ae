"""Networks whose passes are compiled learn what plain ones learn, and go on after a stop as if unbroken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from training.checkpoint import load_tensors
from training.dataset import Dataset
from training.errors import DeviceError
from training.fit import main
from training.learner import Learner, Plan, train_step
from training.member import CHECKPOINT_FILE, EpochMetrics, train_member
from training.recipe import Recipe
from training.run import SETTINGS_FILE, Run
from training.sources import load_dataset

ROOT = Path(__file__).parents[2]
BRIEF = ["--recipe", "small", "--members", "1", "--processes", "1", "--threads", "1", "--precision", "float32"]

# torch's compiler uses a part of torch that is on its way out.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, which torch.compile calls")


@pytest.fixture(scope="module")
def dataset(drawn_digits: Path) -> Dataset:
    return load_dataset(drawn_digits)


def step_of(
    dataset: Dataset, architecture: str = "cnn_bn", images: int = 16, *, compiled: bool
) -> tuple[Learner, float]:
    """A network without dropout after one step, and the loss of that step."""
    recipe = Recipe(name="tiny", architectures=(architecture,), epochs=1, batch_images=images)
    learner = Learner(Plan(recipe, 1, 1, torch.float32, compiled=compiled), dataset)
    learner.network.train()
    loss, _ = train_step(
        learner, dataset.train.select(torch.arange(images)), 1e-3, torch.Generator().manual_seed(0)
    )
    return learner, loss.item()


@needs_compiler
def test_a_compiled_step_is_the_plain_one(dataset: Dataset) -> None:
    compiled, compiled_loss = step_of(dataset, compiled=True)
    plain, plain_loss = step_of(dataset, compiled=False)
    assert compiled.forward is not compiled.network
    assert plain.forward is plain.network
    assert compiled_loss == pytest.approx(plain_loss, rel=1e-5)
    assert torch.cosine_similarity(gradients_of(compiled), gradients_of(plain), dim=0) > 0.9999


def gradients_of(learner: Learner) -> torch.Tensor:
    """All of its last step in a row."""
    return torch.cat([weight.grad.flatten() for weight in learner.network.parameters() if weight.grad is not None])


@needs_compiler
def test_a_compiled_run_goes_on_to_the_same_weights(
    drawn_digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(drawn_digits), *BRIEF, "--epochs", "2", "--compile"]
    assert main([*arguments, "--run", str(tmp_path / "whole")]) == 0
    assert "10 classes; cpu, float32, compiled, threads" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        patched.setattr("training.launch._Labelled.epoch", interrupt)
        assert main([*arguments, "--run", str(tmp_path / "broken")]) == 130
    assert Run.open(tmp_path / "broken").settings.compiled
    assert main(["--resume", str(tmp_path / "broken"), "--processes", "1"]) == 0
    whole, broken = (
        load_tensors(tmp_path / name / "member-1" / CHECKPOINT_FILE)[0] for name in ("whole", "broken")
    )
    assert all(torch.equal(broken[name], value) for name, value in whole.items())


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@needs_compiler
def test_any_number_of_members_may_be_compiled_in_one_process(dataset: Dataset) -> None:
    """One function is compiled for eight shapes, and then for no more."""
    for images in range(16, 26):
        step_of(dataset, "linear", images, compiled=True)


def fit_without_compiler(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    nowhere = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-m", "training.fit", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | nowhere, capture_output=True, text=True, check=False)


def test_without_a_compiler_nothing_is_begun(drawn_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fitted = fit_without_compiler(tmp_path, "--data", str(drawn_digits), "--run", str(run), *BRIEF, "--compile")
    assert fitted.returncode == 1
    assert fitted.stderr.startswith("DeviceError: torch.compile fails here: InvalidCxxCompiler")
    assert fitted.stderr.endswith("Mend that, or begin a run without --compile\n")
    assert not run.exists()


def test_without_a_compiler_nothing_goes_on(drawn_digits: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--data", str(drawn_digits), "--run", str(run), *BRIEF, "--epochs", "1"]) == 0
    (run / "member-1" / CHECKPOINT_FILE).unlink()
    settings = Run.open(run).settings.model_copy(update={"compiled": True})
    (run / SETTINGS_FILE).write_text(settings.model_dump_json())
    resumed = fit_without_compiler(tmp_path, "--resume", str(run))
    assert (resumed.returncode, resumed.stderr.count("\n")) == (1, 1)
    assert resumed.stderr.startswith("DeviceError: torch.compile fails here: InvalidCxxCompiler")


def test_what_fails_while_a_network_is_compiled_is_said(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the first step, as where a member learns on another machine."""

    def fail(*_: object) -> None:
        raise BackendCompilerFailed(fail, ValueError("no such kernel"), None)

    monkeypatch.setattr("training.member.train_epoch", fail)
    plan = Plan(Recipe(name="tiny", architectures=("linear",), epochs=1), 1, 1, torch.float32, compiled=True)
    with pytest.raises(DeviceError, match=r"torch.compile fails here: .* ValueError: no such kernel. Mend that"):
        train_member(plan, dataset, tmp_path, Silent())


class Silent:
    """Observes nothing."""

    def step(self, done: int, total: int) -> None: ...

    def epoch(self, metrics: EpochMetrics) -> None: ...
