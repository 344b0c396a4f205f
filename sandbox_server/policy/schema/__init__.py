"""The policy file as its author writes it: `sandbox-policy/v1`. What it means is `policy/effective.py`."""
