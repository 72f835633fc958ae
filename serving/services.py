"""The services of a server, as gRPC's generated code registers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc

from serving.context import Handler


class Services:
    """Takes servicers in place of a server, and gives their handlers.

    gRPC's asyncio server waits for the next call of each registered method apart, which costs every call time, and
    drops what it waits for when it is told to stop, while gRPC's core may just have given it a call. Where no
    methods are registered, it waits for the next call.
    """

    def __init__(self) -> None:
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Keep a service's handlers."""
        self.handlers += generic_rpc_handlers

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        """Register no method."""
