"""onnxruntime sessions on the execution provider that was asked for, or a refusal; never on another one."""

from __future__ import annotations

import os

import onnxruntime

from serving.errors import BundleRefused, ProviderInactive
from serving.settings import Provider

PROVIDER_NAMES: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
PROVIDER_OPTIONS: dict[Provider, dict[str, str]] = {
    # One thread a session as everywhere, and float32 as the self-check expects.
    "openvino": {"device_type": "CPU", "precision": "FP32", "num_of_threads": "1", "num_streams": "1"},
}

onnxruntime.disable_telemetry_events()  # beside the variable in serving/__init__.py, for other platforms


def installed_providers() -> list[Provider]:
    """Those of ours that the installed onnxruntime has."""
    available = onnxruntime.get_available_providers()
    return [provider for provider, name in PROVIDER_NAMES.items() if name in available]


def require_provider(provider: Provider) -> None:
    """Make sure that the installed onnxruntime has a provider.

    Raises:
        ProviderInactive: It does not.
    """
    if provider not in installed_providers():
        available = onnxruntime.get_available_providers()
        raise ProviderInactive(
            f"provider {provider!r} was asked for, but the installed onnxruntime {onnxruntime.__version__} has "
            f"only {', '.join(available)}; install consort[{provider}] instead"
        )


def open_session(graph: bytes, name: str, provider: Provider) -> onnxruntime.InferenceSession:
    """Load one member's graph on a provider, for runs that use one thread each.

    Args:
        graph: Content of an ONNX file with its weights inside; no other file is read.
        name: What to call it in errors.
        provider: Where to run it.

    Raises:
        BundleRefused: onnxruntime cannot load the graph.
        ProviderInactive: onnxruntime put the graph on another provider.
    """
    options = onnxruntime.SessionOptions()
    # Many members run side by side: parallelism comes from them, not from inside one.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; the fall-back that its warnings tell of is refused below
    # Weights in other files escape the checksums: look for them where nothing can be.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    wanted = PROVIDER_NAMES[provider]
    try:
        session = onnxruntime.InferenceSession(
            graph, options, providers=[(wanted, PROVIDER_OPTIONS.get(provider, {}))]
        )
    except Exception as error:
        raise BundleRefused(f"{name} cannot be loaded: {error}") from error
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise ProviderInactive(
            f"provider {provider!r} was asked for, but onnxruntime runs {name} on "
            f"{session.get_providers()[0]}; its log names the reason"
        )
    return session
