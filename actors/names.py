"""Names of actors, one fixed namespace, so that a name means one actor; and of what their processes find in the environment."""

NAMESPACE = "profilegrid"
CONTROLLER = "controller"
COORDINATOR = "coordinator"
# A folder that goes with the grid, so that a process that is killed leaves nothing behind; a grid on a Ray cluster has none.
TEMPORARY = "PROFILEGRID_TEMPORARY"


def shard_name(shard: int, ray_node: str = "") -> str:
    """The actor name of a shard. On a cluster it names the Ray node too: when a node comes back, Ray may still hold the name of the one that died."""
    return f"shard-{shard}@{ray_node[:16]}" if ray_node else f"shard-{shard}"
