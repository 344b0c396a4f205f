"""A policy of 10,000 rules: the processor time it takes to load, and what a decision costs.

`python -m bench.policy_scale`
"""

from __future__ import annotations

import time

from sandbox_server.policy.decision import Principal, Request
from sandbox_server.policy.engine import decide, effective
from sandbox_server.policy.loader import parse_policy

RULES = 10_000
CALLS = 5_000


def policy_text(rules: int) -> bytes:
    """Half of the rules allow hosts of the web, a quarter denies some, a quarter is about files."""
    allow = "\n".join(
        f"        - {{hosts: [h{n}.example.com, '*.d{n}.example.org'], methods: [GET], paths: ['/v1/**']}}"
        for n in range(rules // 2)
    )
    deny = "\n".join(f"        - {{hosts: ['*.h{n}.example.com']}}" for n in range(rules // 4))
    files = "\n".join(
        f"        - {{path: '/workspace/p{n}/**', ops: [read, write]}}" for n in range(rules // 4)
    )
    return (
        "schema: sandbox-policy/v1\nroles:\n  r:\n    tools: {allow: [web_api, filesystem]}\n"
        f"    web:\n      allow:\n{allow}\n      deny:\n{deny}\n    files:\n      allow:\n{files}\n"
    ).encode()


def requests() -> list[Request]:
    found = []
    for n in range(CALLS // 5):
        found += [
            Request("web_api", {"method": "GET", "url": f"https://h{n}.example.com/v1/x"}),
            Request("web_api", {"method": "POST", "url": f"https://a.b.d{n}.example.org/v1/x", "data": "x"}),
            Request("web_api", {"method": "GET", "url": f"https://nobody{n}.example.net/"}),
            Request("web_api", {"method": "GET", "url": f"https://sub.h{n}.example.com/v1/x"}),
            Request("filesystem", {"operation": "write", "path": f"p{n}/a/b", "content": "x"}),
        ]
    return found


def main() -> None:
    text = policy_text(RULES)
    start = time.process_time()
    policy = parse_policy(text, source="bench.yaml")
    loaded = time.process_time()
    effective(policy, Principal())
    built = time.process_time()
    took = []
    for request in requests():
        before = time.process_time()
        decide(policy, Principal(), request)
        took.append(time.process_time() - before)
    took.sort()
    print(f"{RULES} rules, {len(text) / 1024:.0f} KiB")
    print(f"load: {loaded - start:.2f} s, effective {built - loaded:.3f} s")
    shown = ", ".join(f"p{q} {took[len(took) * q // 100] * 1e6:.0f} us" for q in (50, 99))
    print(f"decide: {shown}, max {took[-1] * 1e6:.0f} us")


if __name__ == "__main__":
    main()
