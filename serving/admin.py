"""Control the models of a running server: `python -m serving.admin list | load | unload | label | refusals`.

All but `label` ask the server, whose setting model_control must allow it. `label` writes `<name>/labels.json` into
the models folder, which every server that watches it follows. Exit code 0: done; 1: refused or not reached; 2: the
command was not understood.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from protos.consort.v1 import model_control_pb2, model_control_pb2_grpc
from protos.open_inference.v2 import grpc_service_pb2 as pb
from protos.open_inference.v2 import grpc_service_pb2_grpc
from serving.channel import credential_options, credentials_of, require_timeout
from serving.errors import BundleRefused
from serving.labels import read_labels, write_labels

EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the process's exit code."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except grpc.RpcError as error:
        print(f"{options.target}: {error.code().name}: {error.details()}", file=sys.stderr)
        return EXIT_FAILED
    except BundleRefused as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"{error.filename or 'models folder'} cannot be used: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except ValueError as error:
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0


def _seconds(text: str) -> float:
    try:
        return require_timeout(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def build_parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    server = argparse.ArgumentParser(add_help=False, parents=[credential_options()])
    server.add_argument("--target", default="localhost:8001", help="host and port of the server (%(default)s)")
    server.add_argument(
        "--timeout-seconds", type=_seconds, default=60.0, help="how long the server may take (%(default)s)"
    )
    parser = argparse.ArgumentParser(prog="python -m serving.admin", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, text: str, **more: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, **more)
        command.set_defaults(run=run)
        return command

    add("list", show_bundles, "List every version in the models folder or in use.", parents=[server])
    command = add("load", load, "Load a model, or look now for newer versions of it.", parents=[server])
    command.add_argument("name", help="of the model")
    command = add("unload", unload, "Serve no version of a model until it is loaded again.", parents=[server])
    command.add_argument("name", help="of the model")
    command = add("refusals", show_refusals, "List what was refused, the newest first.", parents=[server])
    command.add_argument("name", nargs="?", default="", help="of one model; without it, of all")
    command = add("label", label, "Give a label to a version, or take it away, in the models folder.")
    command.add_argument("name", help="of the model")
    command.add_argument("label", help="stable answers calls that name no version, canary a share of them")
    command.add_argument(
        "version", help="which is to have the label, or none to take it away", type=version_or_none
    )
    command.add_argument("--models", type=Path, default=Path("models"), help="models folder (%(default)s)")
    return parser


def show_bundles(options: argparse.Namespace) -> None:
    """Print a row a version."""
    reply = _call(
        options, grpc_service_pb2_grpc.GRPCInferenceServiceStub, "RepositoryIndex", pb.RepositoryIndexRequest()
    )
    rows = [(one.name, one.version, one.state, one.reason) for one in reply.models]
    _print_table(("model", "version", "state", "why not"), rows)


def load(options: argparse.Namespace) -> None:
    """Have the server load a model, and print what it then serves."""
    request = pb.RepositoryModelLoadRequest(model_name=options.name)
    _call(options, grpc_service_pb2_grpc.GRPCInferenceServiceStub, "RepositoryModelLoad", request)
    show_bundles(options)


def unload(options: argparse.Namespace) -> None:
    """Have the server unload a model, and print what it then serves."""
    request = pb.RepositoryModelUnloadRequest(model_name=options.name)
    _call(options, grpc_service_pb2_grpc.GRPCInferenceServiceStub, "RepositoryModelUnload", request)
    show_bundles(options)


def show_refusals(options: argparse.Namespace) -> None:
    """Print a row a refusal."""
    request = model_control_pb2.ListRefusalsRequest(model_name=options.name)
    reply = _call(options, model_control_pb2_grpc.ModelControlStub, "ListRefusals", request)
    rows = [
        (
            f"{datetime.fromtimestamp(one.refused_at, UTC):%Y-%m-%d %H:%M:%SZ}",
            one.model_name,
            str(one.version or "labels"),
            "refused" if one.stands else "",
            one.reason,
        )
        for one in reply.refusals
    ]
    _print_table(("when", "model", "version", "now", "why"), rows)


def label(options: argparse.Namespace) -> None:
    """Write the labels, and print them.

    Raises:
        BundleRefused: Label or version are not valid or not there, or what is there is no file of labels.
        OSError: The models folder cannot be written to.
    """
    folder = options.models / options.name
    labels = read_labels(folder)
    if options.version is None:
        labels.pop(options.label, None)
    elif not (folder / str(options.version)).is_dir():
        raise BundleRefused(f"models folder {options.models} has no version {options.version} of {options.name!r}")
    else:
        labels[options.label] = options.version
    write_labels(folder, labels)
    _print_table(("label", "version"), ((name, str(version)) for name, version in sorted(labels.items())))


def version_or_none(text: str) -> int | None:
    """A version, or None for `none`."""
    return None if text == "none" else int(text)


def _call(options: argparse.Namespace, stub: Any, method: str, request: object) -> Any:
    credentials = credentials_of(options)
    with credentials.open_channel(options.target) as channel:
        ask = getattr(stub(channel), method)
        return ask(request, timeout=options.timeout_seconds, metadata=credentials.metadata)


def _print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
