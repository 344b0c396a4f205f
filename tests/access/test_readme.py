"""The tables of README.md are true: each item of the list has its tests, and the tests are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

ITEMS = {
    "Addresses in other spellings": r"""
        decimal; hex; octal; mixed; short; leading zeros; trailing dot; percent-encoded; enclosed
        alphanumerics; fullwidth dots; IPv6-mapped; IPv4-compatible; translated; NAT64; 6to4; Teredo;
        ISATAP; zone ids; [::]; 0.0.0.0; 0; 127.0.0.2; 127.127.127.127; broadcast; multicast; CGNAT;
        TEST-NETs; benchmark; link-local; ULA; own public IP; own proxy port
    """,
    "Names": r"""
        localhost; localhost.; *.localhost; localhost.localdomain; ip6-localhost; nip.io; sslip.io; xip;
        metadata.google.internal; instance-data; kubernetes.default.svc; host.docker.internal;
        gateway.docker.internal; single-label names; .internal; .local; .home.arpa; upper case; trailing
        dots; soft hyphen; ZWJ; BOM; unicode confusables
    """,
    "URL tricks": r"""
        allowed@evil; evil#@allowed; \@; %2f@; ?@; //evil; http:evil; http:/\evil; tabs and newlines;
        %00; %0d%0a in path; %0d%0a in host; %0d%0a in header values; fragment confusion; missing
        scheme; file:; gopher:; dict:; ftp:; sftp:; tftp:; ldap:; jar:; netdoc:; data:; javascript:;
        http+unix:; unix:; port 0; port 080; port 65536; port :80:443; negative port; named port
    """,
    "Resolution": r"""
        DNS rebinding; mixed A records; CNAME chain to internal; AAAA private, A public; very long TTL,
        cache poisoning; resolver timeouts; search-domain append
    """,
    "Redirects": r"""
        to a private IP; to metadata; to another scheme; to another port; to another allowed host with
        body; Location relative; Location protocol-relative; Location with userinfo; 300; 305; 332;
        Refresh; meta refresh; redirect loop; method change 303 vs 307/308; credentials forwarded
        cross-origin; Content-Location
    """,
    "Answers": r"""
        gzip bomb; br bomb; zstd bomb; nested encodings; Content-Length lie; infinite chunked; 1 byte/s;
        huge headers; 10^4 headers; trailers; HTTP/0.9; 1xx flood; CL+TE conflict (smuggling); obs-fold;
        NUL in header; HTTP/2 downgrade; HSTS upgrade; Alt-Svc upgrade; keep-alive response queue
        poisoning; multipart reuse across principals; Set-Cookie reuse across principals
    """,
    "Environment": r"""
        HTTP_PROXY; HTTPS_PROXY; ALL_PROXY; NO_PROXY; .netrc; SSL_CERT_FILE; SSLKEYLOGFILE;
        REQUESTS_CA_BUNDLE; own CA bundle
    """,
    "Metadata services": r"""
        169.254.169.254; [fd00:ec2::254]; 169.254.170.2; 169.254.170.23; 100.100.100.200; 192.0.0.192;
        168.63.129.16; 169.254.0.23; in other spellings
    """,
    "Any text as a URL": r"""
        web; redirects; way out; one reading
    """,
    "The way out of sandboxes": r"""
        E1 empty allowlist; E2 plain HTTP; E3 another port; E4 --noproxy; E5 relay inside; E6 Host,
        CONNECT; E6 Host, SNI; E6 missing SNI; E6 ECH; E7 forms of the target; E8 forbidden addresses;
        E9 rebinding; E10 NUL; E10 CR; E10 LF; E10 space; E10 %00; E10 @; E10 brackets; E10 unicode; E10
        trailing dot; E10 upper case; E11 reload, tunnel open; E12 reload, broken key; E13 UDP, QUIC;
        E13 ICMP; E13 IPv6 literal; E14 WebSocket; E15 idle tunnel; E15 10^4 tunnels; E15 slow loris;
        E16 upload cap; E17 DNS labels; E18 own ports
    """,
}


def tables() -> dict[str, dict[str, list[str]]]:
    """By title and item, the tests that are named."""
    found = {}
    for part in (HERE / "README.md").read_text().split("\n## ")[1:]:
        rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", part, re.MULTILINE)
        found[part.partition("\n")[0]] = {item: re.findall(r"`(.+?)`", tests) for item, tests in rows}
        assert len(rows) == len(found[part.partition("\n")[0]]), "an item stands there twice"
    return found


def test_every_item_of_the_list_has_its_tests() -> None:
    wanted = {title: [" ".join(item.split()) for item in items.split(";")] for title, items in ITEMS.items()}
    assert {title: list(rows) for title, rows in tables().items()} == wanted
    assert all(tests for rows in tables().values() for tests in rows.values())


def test_the_tests_that_are_named_are_there() -> None:
    named = {test for rows in tables().values() for tests in rows.values() for test in tests}
    files = sorted({f"tests/{test.partition('::')[0]}" for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-o", "addopts=--import-mode=importlib", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    collected = {line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line}
    collected |= {test.partition("[")[0] for test in collected}
    assert named <= collected
