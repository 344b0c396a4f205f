"""What a decision says of the limits of a way out."""

from __future__ import annotations

from sandbox_server.policy.decision import Limit
from tests.policy.support import ask, policy_of


def test_a_rate_is_a_number_and_its_seconds_and_no_quota_is_lost_for_a_limit_of_the_same_name() -> None:
    policy = policy_of(
        "{r: {code: {languages: {python: {}}, egress: out}, quotas: {runs: 9/day, burst: 3}}}",
        "egress: {profiles: {out: {allow: ['a.example.com'], rate: 120/min, burst: 7, tunnels: 5}}}\n",
    )
    limits = ask(policy, "egress", profile="out", host="a.example.com", port=443, scheme="https").limits
    at = "egress.profiles.out"
    assert limits["rate"] == Limit(120, f"{at}.rate", 60)
    assert limits["rate_burst"] == Limit(7, f"{at}.burst")
    assert limits["tunnels"] == Limit(5, f"{at}.tunnels")
    assert limits["burst"] == Limit(3, "roles.r.quotas.burst")
