from __future__ import annotations

from sandbox_server.cli import main

if __name__ == "__main__":
    main()
