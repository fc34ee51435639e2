"""The distribution: shards, coordinator and controller as Ray actors, their gRPC services, the operator's commands."""
