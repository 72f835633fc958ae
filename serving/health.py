"""Ask a server whether it serves: `python -m serving.health`, exit code 0 for yes. For container health checks."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.channel import IN_THE_CLEAR, Credentials, credential_options, credentials_of
from serving.readiness import LIVENESS

TIMEOUT_SECONDS = 3.0


def main() -> int:
    """Print the status of the server; 0 if it is SERVING, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.health",
        description=__doc__,
        parents=[credential_options(with_token=False)],  # health is asked without
    )
    parser.add_argument("target", nargs="?", default="localhost:8001", help="host and port (%(default)s)")
    parser.add_argument(
        "--service",
        default="",
        help=f"what to ask about: {LIVENESS!r} for whether the process answers, by default "
        "whether calls should be sent",
    )
    options = parser.parse_args()
    try:
        return check(options.target, options.service, credentials_of(options))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1


def check(target: str, service: str = "", credentials: Credentials = IN_THE_CLEAR) -> int:
    """Ask the server at `target` about a service through grpc.health.v1."""
    with credentials.open_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs name no methods
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            print(f"{target}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
