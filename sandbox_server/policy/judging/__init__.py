"""One module for each kind of request. Each gets what the principal may do and the request's arguments, and
gives a `Judgment`; `policy/engine.py` makes the decision of it."""
