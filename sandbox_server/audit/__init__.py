"""The decision log: who was allowed or refused what, why, and what became of it, in lines that can't be
changed, removed or put elsewhere without `sandbox-server audit verify` naming the place."""
