"""Names of actors: one fixed namespace, so that a name means one actor."""

NAMESPACE = "profilegrid"
CONTROLLER = "controller"
COORDINATOR = "coordinator"


def shard_name(shard: int) -> str:
    """The actor name of a shard."""
    return f"shard-{shard}"
