"""Judgments about what leaves the house: URLs, hosts, addresses, SQL. Pure: no I/O, no policy file.

`policy/` asks them when it decides and `access/` when it acts, so both see the same canonical form.
"""
