"""How long a dependency gets for an answer where nobody has set it. A build's process needs no more of the settings."""

DATABASE_TIMEOUT_S, STORE_TIMEOUT_S = 10.0, 60.0
