"""gRPC servers: options, interceptors, health and reflection, the same for shards and gateway."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from profilegrid.options import SERVER_OPTIONS

from actors.metrics import Meter
from actors.services.calls import CallInterceptor
from grid.errors import GridError

GRACE_S = 5.0


class GrpcServer:
    """One grpc.aio server with its health service."""

    def __init__(self, meter: Meter) -> None:
        self.server = grpc.aio.server(interceptors=[CallInterceptor(meter)], options=SERVER_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._names = [health.SERVICE_NAME, reflection.SERVICE_NAME]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    def add(self, file_descriptor: Any, service: str, register: Any, servicer: Any) -> None:
        """Serve one service of a proto file."""
        register(servicer, self.server)
        self._names.append(file_descriptor.services_by_name[service].full_name)

    async def start(self, host: str, port: int) -> int:
        """Bind (0: any port) and serve. Returns the port. Raises PortTaken."""
        reflection.enable_server_reflection(self._names, self.server)
        try:
            bound = self.server.add_insecure_port(f"{host}:{port}")
        except RuntimeError as error:
            raise PortTaken(host, port) from error
        await self.server.start()
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return bound

    async def stop(self) -> None:
        """Say NOT_SERVING, let calls finish, end."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(GRACE_S)


class PortTaken(GridError):
    """Another process listens on the port."""

    reason = "PORT_TAKEN"

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.host, self.port = host, port

    def __str__(self) -> str:
        return f"port {self.port} on {self.host} is taken; stop what listens there or choose another with --port"
