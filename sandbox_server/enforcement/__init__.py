"""The policy put in force: what every call and everything that leaves the house passes."""
