"""An MCP server that runs untrusted code in throwaway containers."""
