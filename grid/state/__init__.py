"""What a shard knows of its users, in columns: ids, attributes, features, dictionaries. Touches no disk and no clock."""
