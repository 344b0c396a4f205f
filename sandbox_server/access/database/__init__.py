"""SQL on databases that the operator named: judged by `guards/sql`, run under the engine's own limits.

The guard decides; everything here assumes that it was wrong. Each backend opens its connections so that a
statement that should never have passed finds a database that refuses it, too.
"""
