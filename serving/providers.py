"""onnxruntime sessions on the execution provider that was asked for, or a refusal; never on another one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnxruntime

from serving.errors import BundleRefused, ProviderInactive
from serving.settings import Provider


@dataclass(frozen=True)
class Execution:
    """How onnxruntime is told to run members.

    Attributes:
        name: Of the execution provider, as onnxruntime has it.
        extra: The extra of this package that installs it.
        options: For the execution provider.
        rounds: Whether values are rounded to bfloat16 on the way: answers then differ from float32's by design.
        batch_sizes: The only sizes of batches that it is given, in order, where a new size costs it a new plan;
            batches between them are padded. Empty where any size will do.
    """

    name: str
    extra: str
    options: Mapping[str, str] = field(default_factory=dict)
    rounds: bool = False
    batch_sizes: tuple[int, ...] = ()

    def padded(self, images: int) -> int:
        """How large a batch of so many images is made: the next size, or a multiple of the largest."""
        largest = self.batch_sizes[-1]
        return next((size for size in self.batch_sizes if size >= images), -(-images // largest) * largest)


def _openvino(precision: str) -> dict[str, str]:
    """Options for one thread a session, as everywhere, in a precision by OpenVINO's name for it."""
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": "1",
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",  # or every session binds its thread to the same core
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": settings})}


EXECUTIONS: dict[Provider, Execution] = {
    "cpu": Execution("CPUExecutionProvider", "cpu"),
    "openvino": Execution("OpenVINOExecutionProvider", "openvino", _openvino("f32")),
    "openvino-bfloat16": Execution("OpenVINOExecutionProvider", "openvino", _openvino("bf16"), rounds=True),
    # cuDNN searches for the fastest convolutions anew for each size. TF32 would round what must be float32.
    "cuda": Execution("CUDAExecutionProvider", "cuda", {"use_tf32": "0"}, batch_sizes=(1, 8, 32, 64)),
}

ON_CPU = "CPU EP"
"""What onnxruntime calls the CPU provider where it refuses to fall back on it."""

onnxruntime.disable_telemetry_events()  # beside the variable in serving/__init__.py, for other platforms


def installed_providers() -> list[Provider]:
    """Those of ours that the installed onnxruntime has."""
    available = onnxruntime.get_available_providers()
    return [provider for provider, execution in EXECUTIONS.items() if execution.name in available]


def require_provider(provider: Provider) -> None:
    """Make sure that the installed onnxruntime has a provider.

    Raises:
        ProviderInactive: It does not.
    """
    if provider not in installed_providers():
        available = onnxruntime.get_available_providers()
        raise ProviderInactive(
            f"provider {provider!r} was asked for, but the installed onnxruntime {onnxruntime.__version__} has "
            f"only {', '.join(available)}; {provider!r} comes with Consort's "
            f"extra {EXECUTIONS[provider].extra!r}, installed instead of the one that is there"
        )


def open_session(graph: bytes, name: str, provider: Provider) -> onnxruntime.InferenceSession:
    """Load one member's graph on a provider, for runs that use one thread each.

    Args:
        graph: Content of an ONNX file with its weights inside; no other file is read.
        name: What to call it in errors.
        provider: Where to run it.

    Raises:
        BundleRefused: onnxruntime cannot load the graph.
        ProviderInactive: onnxruntime would put the graph, or part of it, on the CPU instead.
    """
    options = onnxruntime.SessionOptions()
    # Many members run side by side: parallelism comes from them, not from inside one.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; the fall-back that its warnings tell of is refused below
    # Weights in other files escape the checksums: look for them where nothing can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if provider != "cpu":
        # What a provider does not take, all of a graph if it cannot start, would run on the CPU without a word.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted = EXECUTIONS[provider]
    try:
        session = onnxruntime.InferenceSession(
            graph,
            options,
            providers=[(wanted.name, dict(wanted.options))],
            enable_fallback=provider != "cpu",  # from where it would try again, and print so on standard output
        )
    except Exception as error:
        if provider != "cpu" and ON_CPU in str(error):
            raise ProviderInactive(
                f"provider {provider!r} was asked for, but onnxruntime would run {name}, or part of it, on the "
                "CPU; its log names the reason"
            ) from error
        raise BundleRefused(f"{name} cannot be loaded: {error}") from error
    session.disable_fallback()
    return session
