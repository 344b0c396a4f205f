"""The I/O for what leaves the house: HTTP, the egress proxy, databases."""
