"""A bare grpcio server in a process of its own that answers each call with the same bytes: what a call costs without us."""

from __future__ import annotations

import sys

import grpc


async def serve(size: int) -> None:
    """Print the port, then answer until killed."""
    answer = bytes(size)

    async def echo(request: bytes, context: object) -> bytes:
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Call": handler}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1])))
