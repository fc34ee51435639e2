"""The engine: the partitions of one shard and everything inside them. Pure: no ray, no grpc, told the time."""
