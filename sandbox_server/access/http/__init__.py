"""HTTP requests for callers, to hosts that the policy allows and to no other address.

It stands on httpx2's transport, httpcore2, and not on httpx2's client: that would parse URLs a second
time, keep cookies between callers and read proxies, .netrc and certificates from the environment.
"""
