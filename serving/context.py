"""What gRPC gives with every call."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # a generic in the type stubs alone
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
