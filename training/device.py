"""Where members learn, on processors or on a GPU, and all that differs between the two.

A GPU computes while the program goes on and hands it more. It falls idle whenever the program waits for a number
of it, so a training step asks for none: images lie on the device, random numbers are drawn there, and losses are
added up there until it is time to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal, cast

import torch
from torch import Tensor

from training.errors import DeviceError

DeviceName = Literal["cpu", "cuda"]
Forward = Callable[[Tensor], Tensor]
"""From images to what is made of them; a network is one."""

MOST_ON_A_GPU = 8
"""Members that share a GPU: each alone leaves most of it idle, and each holds half a gigabyte for its process."""
GPU_STEPS_BETWEEN_LOOKS = 100
COMPILER_MODULES = ("torch._dynamo.", "torch._inductor.")
"""Where the exceptions of torch.compile are from."""


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> DeviceName:
    """What was asked for, or a GPU where there is one.

    Raises:
        DeviceError: What was asked for is not there.
    """
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    find_device(asked)
    return asked


def find_device(name: str) -> torch.device:
    """The device called `name`; never another in its place.

    Raises:
        DeviceError: It is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"torch {torch.__version__} sees no CUDA device here; train with --device cpu, or, where there is a "
            "GPU, install a build of torch for CUDA"
        )
    return torch.device(name)


def describe_device(name: DeviceName) -> str:
    """What it is called, and of a GPU that is there also the model."""
    return f"cuda ({torch.cuda.get_device_name()})" if name == "cuda" and torch.cuda.is_available() else name


def learning_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager[None]:
    """Let convolutions and dense layers compute in a precision."""
    return nullcontext() if precision == torch.float32 else torch.autocast(device.type, precision)


def compile_for(device: torch.device, network: Forward) -> Forward:
    """What computes the same passes, forward and backward, in fewer and larger steps of the device.

    Compiled at the first call, for one shape alone; what cannot be compiled whole fails there. On a GPU, a pass
    is also recorded once and then replayed as a CUDA graph, so that its hundred small steps are one to hand over.
    """
    torch.compiler.reset()  # what members before this one were compiled to counts against a limit
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return cast(Forward, torch.compile(network, fullgraph=True, dynamic=False, mode=mode))


def require_compiler(name: DeviceName) -> None:
    """Compile something small, to find out whether anything can be.

    Raises:
        DeviceError: It cannot.
    """
    device = find_device(name)
    try:
        compile_for(device, torch.neg)(torch.ones(2, device=device))
    except (RuntimeError, OSError) as error:
        raise _not_compiled(error) from error


@contextmanager
def saying_what_fails(what: str, advice: str) -> Iterator[None]:
    """Say what the GPU's memory is not enough for, and what to do about it; and why nothing can be compiled.

    Raises:
        DeviceError: It is not, or nothing can be.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"the GPU has not memory enough for {what}; {advice}") from error
    except RuntimeError as error:
        if not type(error).__module__.startswith(COMPILER_MODULES):
            raise
        raise _not_compiled(error) from error


def steps_between_looks(device: torch.device) -> int:
    """After how many steps to look whether the loss is a number still."""
    return GPU_STEPS_BETWEEN_LOOKS if device.type == "cuda" else 1


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given, so that a clock may be read."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def threads_of_each(name: DeviceName, cores: int, at_once: int) -> int:
    """Processor threads of each of the members that learn at once: on a GPU, one that hands it work."""
    return 1 if name == "cuda" else max(1, cores // at_once)


def gpu_share(name: DeviceName) -> float:
    """How much of a GPU each member is given, where they are given out."""
    return 1 / MOST_ON_A_GPU if name == "cuda" else 0.0


def most_at_once(name: DeviceName, cores: int, threads: int) -> int:
    """How many members may learn at the same time."""
    processes = max(1, cores // threads)
    return min(processes, MOST_ON_A_GPU) if name == "cuda" else processes


def _not_compiled(error: Exception) -> DeviceError:
    reason = " ".join(str(error).split("\n\n")[0].split())  # what follows tells how torch is debugged
    return DeviceError(f"torch.compile fails here: {reason}. Mend that, or begin a run without --compile")
