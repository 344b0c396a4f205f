"""The Docker engine. Nothing outside this package imports `docker`."""

from sandbox_server.engines.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
