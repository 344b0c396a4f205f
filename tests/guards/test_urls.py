"""Rows of the bypass list that a URL alone decides, and properties of the one parser."""

# ruff: noqa: RUF001 - characters that look like others are what this is about

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox_server.guards.urls import MAX_LENGTH, Url, UrlRefused, parse_url

REFUSED: dict[str, tuple[str, ...]] = {
    "url.host_number": (
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7F.0.0.1/",
        "http://017700000001/",
        "http://0177.0.0.1/",
        "http://0300.0250.0.1/",
        "http://127.1/",
        "http://127.0.1/",
        "http://0x7f.1/",
        "http://127.0.0.0x1/",
        "http://127.000.000.001/",
        "http://127.0.0.01/",
        "http://0/",
        "http://256.256.256.256/",
        "http://1.2.3.4.5/",
        "http://example.123/",
        "http://example.0x1/",
    ),
    "url.host": (
        "http://127.0.0.1../",
        "http://example.com../",
        "http://.example.com/",
        "http://example..com/",
        "http://./",
        "http://127%2e0.0.1/",
        "http://%31%32%37.0.0.1/",
        "http://allowed.com%00.evil.com/",
        "http://allowed.com%2f.evil.com/",
        "http://allowed.com;evil.com/",
        "http://allowed.com,evil.com/",
        "http://allowed_host.com/",
        "http://-allowed.com/",
        "http://allowed-.com/",
        "http://al*wed.com/",
        "http://$allowed.com/",
        f"http://{'a' * 64}.com/",
        f"http://{'a.' * 130}com/",
        "http://xn--a.com/",
        "http://xn--.com/",
        "http://xn--a-ecp.ru/",
        "http://ab--cd.com/",
        "http://[::1/",
        "http://[127.0.0.1]/",
        "http://[]/",
        "http://[::1::]/",
        "http://[v1.x]/",
        "http://[::1;]/",
    ),
    "url.host_zone": ("http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/"),
    "url.host_unicode": (
        "http://①②⑦.⓪.⓪.①/",
        "http://127。0。0。1/",
        "http://127．0．0．1/",
        "http://127｡0｡0｡1/",
        "http://ｅxample.com/",
        "http://exa\u00admple.com/",
        "http://exa\u200bmple.com/",
        "http://exa\u200dmple.com/",
        "http://\ufeffexample.com/",
        "http://example。com/",
        "http://example.com\uff0fevil.org/",
        "http://℀.com/",
        "http://exam\u202eple.com/",
        "http://例\u0301え.\u0301jp/",
        "http://𝓁ocalhost.com/",
        "http://wi\u212aipedia.org/",
        "http://\u212aü.org/",
    ),
    "url.host_single_label": (
        "http://intranet/",
        "http://kubernetes/",
        "http://com./",
        "http://postgres:80/",
    ),
    "url.host_local": (
        "http://localhost/",
        "http://LOCALHOST/",
        "http://localhost./",
        "http://a.localhost/",
        "http://a.b.localhost./",
        "http://localhost.localdomain/",
        "http://localhost6.localdomain6/",
        "http://ip6-localhost/",
        "http://ip6-loopback/",
        "http://host.docker.internal/",
        "http://gateway.docker.internal/",
        "http://kubernetes.docker.internal/",
        "http://host.containers.internal/",
    ),
    "url.host_metadata": (
        "http://metadata.google.internal/computeMetadata/v1/",
        "http://METADATA.google.internal./",
        "http://metadata/",
        "http://metadata.goog/",
        "http://instance-data/latest/",
        "http://instance-data.ec2.internal/",
        "http://metadata.azure.internal/",
    ),
    "url.userinfo": (
        "http://allowed.com@evil.com/",
        "http://user:password@allowed.com/",
        "http://@allowed.com/",
        "http://allowed.com:80@evil.com/",
        "http://allowed.com%2f@evil.com/",
        "http://allowed.com%23@evil.com/",
        "http://[::1]@evil.com/",
    ),
    "url.characters": (
        "http://allowed.com\\@evil.com/",
        "http:/\\evil.com",
        "http:\\\\evil.com/",
        "http://allowed.com\t.evil.com/",
        "http://allowed.com\n/",
        "http://allowed.com\r\nHost: evil.com/",
        "http://allowed.com/\r\nX: y",
        "http://allowed.com/a b",
        " http://allowed.com/",
        "http://allowed.com/ ",
        "http://allowed.com: 80/",
        "http://allowed.com/\x00",
        "http://allowed.com/\x7f",
        "http://allowed.com/é",
        "http://allowed.com/?q=é",
        "http://allowed.com/\u2028",
        "http://exam\u3000ple.com/ x",
        "ｈttp://allowed.com/",
        "\ufeffhttp://allowed.com/",
    ),
    "url.scheme": (
        "",
        "allowed.com",
        "allowed.com/path",
        "//evil.com/",
        "/path",
        "?query",
        "file:///etc/passwd",
        "gopher://allowed.com/_GET",
        "dict://allowed.com:11211/stats",
        "ftp://allowed.com/",
        "sftp://allowed.com/",
        "tftp://allowed.com/",
        "ldap://allowed.com/",
        "jar:http://allowed.com!/",
        "netdoc:///etc/passwd",
        "data:text/html,x",
        "javascript:alert(1)",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
        "unix:/var/run/docker.sock",
        "ws://allowed.com/",
        "httpx://allowed.com/",
        "://allowed.com/",
        "allowed.com:80/",
    ),
    "url.authority": (
        "http:evil.com",
        "http:/evil.com",
        "http:",
        "http://",
        "http:///evil.com",
        "http://?@evil.com/",
        "http://#@evil.com/",
        "https:evil.com/",
    ),
    "url.port": (
        "http://allowed.com:0/",
        "http://allowed.com:080/",
        "http://allowed.com:65536/",
        "http://allowed.com:99999999999/",
        "http://allowed.com:80:443/",
        "http://allowed.com:-80/",
        "http://allowed.com:+80/",
        "http://allowed.com:http/",
        "http://allowed.com:/",
        "http://allowed.com:8_0/",
        "http://[::1]80/",
        "http://[2606:4700::1111]:/",
    ),
    "url.percent": (
        "http://allowed.com/%",
        "http://allowed.com/%2",
        "http://allowed.com/%zz",
        "http://allowed.com/%00",
        "http://allowed.com/?q=%00",
        "http://allowed.com/%0d%0aSet-Cookie:x",
        "http://allowed.com/a%0ab",
        "http://allowed.com/%7f",
        "http://allowed.com/%u002f",
    ),
    "url.path": (
        "http://allowed.com/public/..%2fadmin",
        "http://allowed.com/public%2F..%2Fadmin",
        "http://allowed.com/public/%2e%2e%2fadmin",
        "http://allowed.com/public/..%5cadmin",
        "http://allowed.com/a%5Cb",
        "http://allowed.com/public/%252e%252e/admin",
        "http://allowed.com/public/..%252fadmin",
        "http://allowed.com/%25%32%66",
        "http://allowed.com/public/..;/admin",
        "http://allowed.com/public/..;x=y/admin",
        "http://allowed.com/public/..%3B/admin",
        "http://allowed.com/public/.%3bx/admin",
        "http://allowed.com/public/.;/admin",
        "http://allowed.com/public//../admin",
        "http://allowed.com//%2e%2e/admin",
    ),
    "url.length": ("http://allowed.com/" + "a" * MAX_LENGTH,),
}


@pytest.mark.parametrize(
    ("reason", "url"), [(reason, url) for reason, urls in REFUSED.items() for url in urls]
)
def test_a_trick_is_refused_for_what_it_is(reason: str, url: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        parse_url(url)
    assert refused.value.reason == reason
    assert str(refused.value)


CANONICAL = {
    "http://example.com": "http://example.com/",
    "HTTP://EXAMPLE.COM:80/": "http://example.com/",
    "https://example.com:443": "https://example.com/",
    "https://example.com:80/": "https://example.com:80/",
    "http://example.com./": "http://example.com/",
    "http://8.8.8.8./": "http://8.8.8.8/",
    "http://8.8.8.8:65535/": "http://8.8.8.8:65535/",
    "http://[2606:4700:0:0::1111]/": "http://[2606:4700::1111]/",
    "http://[2606:4700::ABCD]:8080/": "http://[2606:4700::abcd]:8080/",
    "http://[::ffff:1.2.3.4]/": "http://[::ffff:102:304]/",
    "http://bücher.example/": "http://xn--bcher-kva.example/",
    "http://BÜCHER.example/": "http://xn--bcher-kva.example/",
    "http://xn--bcher-kva.example/": "http://xn--bcher-kva.example/",
    "http://faßbender.de/": "http://xn--fabender-rya.de/",
    "http://аllowed.com/": "http://xn--llowed-2nf.com/",
    "http://example.com/a/./b/../c": "http://example.com/a/c",
    "http://example.com/a/%2e%2E/b": "http://example.com/b",
    "http://example.com/../../a": "http://example.com/a",
    "http://example.com/a/..": "http://example.com/",
    "http://example.com/a/.": "http://example.com/a/",
    "http://example.com/%7Euser/%41": "http://example.com/~user/A",
    "http://example.com/%c3%a9": "http://example.com/%C3%A9",
    "http://example.com/a//b": "http://example.com/a//b",
    "http://example.com/...": "http://example.com/...",
    "http://example.com/.hidden": "http://example.com/.hidden",
    "http://example.com/100%25": "http://example.com/100%25",
    'http://example.com/"<>^`{|}': "http://example.com/%22%3C%3E%5E%60%7B%7C%7D",
    "http://example.com/?q=%0d%0a&f[a]=b|c": "http://example.com/?q=%0D%0A&f[a]=b%7Cc",
    "http://example.com?q=http://x/../y?z": "http://example.com/?q=http://x/../y?z",
    "http://example.com/?": "http://example.com/",
    "http://example.com/#fragment": "http://example.com/",
    "http://evil.com#@allowed.com/": "http://evil.com/",
    "http://evil.com?@allowed.com/": "http://evil.com/?@allowed.com/",
    "http://evil.com/@allowed.com": "http://evil.com/@allowed.com",
    "http://allowed.com.evil.com/": "http://allowed.com.evil.com/",
    "http://127.0.0.1.nip.io/": "http://127.0.0.1.nip.io/",
}


@pytest.mark.parametrize(("url", "canonical"), CANONICAL.items())
def test_what_is_taken_has_one_form(url: str, canonical: str) -> None:
    parsed = parse_url(url)
    assert str(parsed) == canonical
    assert parse_url(canonical) == parsed


JOINED = {
    "": "https://a.example/x/y?q",
    "#f": "https://a.example/x/y?q",
    "?r=1": "https://a.example/x/y?r=1",
    "z": "https://a.example/x/z",
    "./z": "https://a.example/x/z",
    "../z": "https://a.example/z",
    "../../../z": "https://a.example/z",
    "/z": "https://a.example/z",
    "//b.example/z": "https://b.example/z",
    "http://b.example:81/z": "http://b.example:81/z",
}


@pytest.mark.parametrize(("location", "target"), JOINED.items())
def test_a_redirect_leads_where_a_browser_would_go(location: str, target: str) -> None:
    base = parse_url("https://a.example/x/y?q")
    assert str(base.join(location)) == target
    assert urljoin(str(base), location).rstrip("#f") in (target, target + "#f")


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("//user@b.example/", "url.userinfo"),
        ("//127.1/", "url.host_number"),
        ("///b.example/", "url.authority"),
        ("/\\b.example/", "url.characters"),
        ("\\\\b.example/", "url.characters"),
        ("javascript:alert(1)", "url.scheme"),
        ("file:///etc/passwd", "url.scheme"),
        ("http:z", "url.authority"),
        ("a:b", "url.scheme"),
        ("/a b", "url.characters"),
        ("/a\r\nb", "url.characters"),
        ("/%2e%2e%2fz", "url.path"),
        ("//localhost/", "url.host_local"),
    ],
)
def test_a_redirect_is_read_as_strictly(location: str, reason: str) -> None:
    with pytest.raises(UrlRefused) as refused:
        parse_url("https://a.example/x/y").join(location)
    assert refused.value.reason == reason


def test_a_refusal_repeats_no_password() -> None:
    with pytest.raises(UrlRefused) as refused:
        parse_url("http://user:hunter2@allowed.com/")
    assert "hunter2" not in str(refused.value)


PIECES = """
http:// https:// // / \\ @ : ? # % %2f %00 %25 . .. [ ] ::1 127.0.0.1 8.8.8.8 0x7f 1 allowed.com evil.org
xn--bcher-kva bücher ① 。 80 65536 a A - _ ; & = é \u200b \ufeff
"""
PIECE = st.sampled_from([*PIECES.split(), " ", "\t", "\r\n", "\x00"])
URLS = st.one_of(
    st.text(),
    st.lists(PIECE, max_size=12).map("".join),
    st.lists(PIECE, max_size=10).map(lambda pieces: "http://" + "".join(pieces)),
    st.from_regex(r"https?://[a-z0-9.@:\[\]%-]{1,30}(/[!-~]{0,30})?", fullmatch=True),
)


@given(URLS)
@example("http://[::ffff:127.0.0.1]:80/a/../b?c#d")
@example("http://evil.com#@allowed.com/")
def test_every_parser_reads_the_canonical_form_in_the_same_way(text: str) -> None:
    try:
        url = parse_url(text)
    except UrlRefused:
        return
    again, split, other = parse_url(str(url)), urlsplit(str(url)), httpx2.URL(str(url))
    assert again == url
    host = url.host.strip("[]")
    assert (split.scheme, split.hostname, split.port or url.port, split.path) == (
        url.scheme,
        host,
        url.port,
        url.path,
    )
    assert (split.username, split.password, split.fragment) == (None, None, "")
    assert (other.scheme, other.raw_host.decode(), other.port or url.port) == (url.scheme, host, url.port)
    assert other.userinfo == b""
    assert other.raw_path.decode().partition("?")[0] == url.path
    assert str(url).isascii()
    assert ".." not in url.path.split("/")


@given(st.from_regex(r"[a-z./;%2eE]{0,40}", fullmatch=True))
def test_a_relative_redirect_stays_at_its_origin(path: str) -> None:
    base = Url("https", "a.example", 443, "/x/y")
    try:
        joined = base.join("/" + path.lstrip("/"))
    except UrlRefused:
        return
    assert joined.origin == base.origin
