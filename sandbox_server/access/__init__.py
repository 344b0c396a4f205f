"""What leaves the house: HTTP for callers, connections out of sandboxes, databases.

It acts on decisions and makes none.
"""
