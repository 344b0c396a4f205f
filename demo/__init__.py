"""`make demo`: a small real job through the official MCP client, and hostile code contained."""
