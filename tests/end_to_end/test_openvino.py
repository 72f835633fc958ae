"""The `openvino` extra in an environment of its own: the same answers from another provider, or a refusal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from tests.bundles import StubMember, write_bundle

ROOT = Path(__file__).parents[2]
DIGITS = sorted((ROOT / "examples/digits").glob("*.png"))

pytestmark = pytest.mark.skipif(
    os.environ.get("CONSORT_TEST_OPENVINO") != "1",
    reason="CONSORT_TEST_OPENVINO=1 installs the extra `openvino`, a download of 60 MB, and tests it",
)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has onnxruntime with OpenVINO."""
    folder = tmp_path_factory.mktemp("openvino")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [f"{folder}/bin/pip", "install", "--quiet", "--constraint", f"{ROOT}/constraints.txt"]
    subprocess.run([*install, f"{ROOT}[openvino]"], check=True)
    return folder / "bin/python"


@contextmanager
def serving(python: Path, models: Path, provider: str) -> Iterator[tuple[Client, list[str]]]:
    """A server on a provider, and what it has logged so far."""
    command = [str(python), "-m", "serving", "--models", str(models), "--provider", provider]
    command += ["--host", "127.0.0.1"]
    command += ["--grpc-port", "0", "--metrics-port", "0", "--log-format", "json"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        try:
            for line in process.stderr:
                lines.append(line)
                if '"event": "ready"' in line:
                    break
            port = lines[-1].split('"grpc_port": ')[1].split(",")[0]
            with Client(f"127.0.0.1:{port}") as client:
                yield client, lines
        finally:
            process.terminate()


def test_openvino_gives_the_same_answers(python: Path) -> None:
    """The shipped digits, against the CPU provider's answers to them."""
    with serving(python, ROOT / "models", "openvino") as (other, _):
        assert other.get_model("mnist").provider == "openvino"
        found = other.classify(DIGITS, model="mnist", members=True).classifications
    with serving(Path(sys.executable), ROOT / "models", "cpu") as (cpu, _):
        expected = cpu.classify(DIGITS, model="mnist", members=True).classifications
    for one, two in zip(found, expected, strict=True):
        assert one.members is not None
        assert two.members is not None
        assert one.label == two.label
        assert np.abs(one.members - two.members).max() < 1e-3


def test_auto_says_what_it_timed_and_took(python: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path, [StubMember((0.7, 0.2, 0.1))])
    with serving(python, tmp_path, "auto") as (client, lines):
        taken = client.get_model().provider
    (chosen,) = (line for line in lines if "provider chosen" in line)
    assert taken in ("cpu", "openvino")
    assert f'"provider": "{taken}"' in chosen
    assert '"cpu": ' in chosen
    assert '"openvino": ' in chosen


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; as Linux tells it."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def test_bfloat16_is_active_or_refused(python: Path) -> None:
    """The same classes from rounded values where the processor has bfloat16; elsewhere no server."""
    if not has_bfloat16():
        command = [
            str(python),
            "-m",
            "serving",
            "--provider",
            "openvino-bfloat16",
            "--models",
            str(ROOT / "models"),
        ]
        refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 3
        assert "the processor has no bfloat16" in refused.stderr
        return
    with serving(python, ROOT / "models", "openvino-bfloat16") as (client, _):
        assert client.get_model("mnist").provider == "openvino-bfloat16"
        found = client.classify(DIGITS, model="mnist", members=True).classifications
    with serving(Path(sys.executable), ROOT / "models", "cpu") as (cpu, _):
        expected = cpu.classify(DIGITS, model="mnist", members=True).classifications
    assert [one.label for one in found] == [one.label for one in expected]
    assert found[0].members is not None
    assert expected[0].members is not None
    assert np.abs(found[0].members - expected[0].members).max() > 0


BOUND = """
import os, sys, threading
from pathlib import Path
import numpy as np
from serving.providers import open_session

session = open_session(Path(sys.argv[1]).read_bytes(), "member", "openvino")
pixels = np.zeros((32, 1, 28, 28), np.uint8)
running = threading.Thread(target=lambda: [session.run(None, {"pixels": pixels}) for _ in range(100)])
running.start()
bound = 0
while running.is_alive():
    for task in Path("/proc/self/task").iterdir():
        try:
            bound += os.sched_getaffinity(int(task.name)) != os.sched_getaffinity(0)
        except ProcessLookupError:  # it has ended
            pass
print(bound)
"""
"""How often a thread was bound to some of the cores, while one ran inference."""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_openvino_binds_no_thread_to_a_core(python: Path) -> None:
    """Each session would choose the same one."""
    member = ROOT / "models/mnist-small/3/member-1.onnx"
    assert subprocess.check_output([python, "-c", BOUND, member], cwd=ROOT, text=True) == "0\n"
