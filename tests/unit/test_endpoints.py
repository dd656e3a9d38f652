"""URLs: everything that is accepted comes back as it was meant, and no secret comes back at all."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.errors import ExitCode, UsageError
from slotferry.model.address import Address
from slotferry.net.endpoints import Endpoint, Service, Tls, read_password_file

HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
)
ADDRESSES = st.builds(Address, HOSTS, st.integers(1, 65535))
CREDENTIALS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", Endpoint("redis", (Address("h", 6379),))),
        ("redis://h/", Endpoint("redis", (Address("h", 6379),))),
        ("REDIS://H:7000/3", Endpoint("redis", (Address("h", 7000),), database=3)),
        ("redis://h?db=3", Endpoint("redis", (Address("h", 6379),), database=3)),
        ("rediss://h:1", Endpoint("rediss", (Address("h", 1),))),
        ("redis://:pw@h", Endpoint("redis", (Address("h", 6379),), password="pw")),
        ("redis://u:p%40%3A%2F@h", Endpoint("redis", (Address("h", 6379),), username="u", password="p@:/")),
        ("redis://u:a:b@c@h", Endpoint("redis", (Address("h", 6379),), username="u", password="a:b@c")),
        ("redis://h?username=u&password=a%26b", Endpoint("redis", (Address("h", 6379),), None, "u", "a&b")),
        ("redis://[::1]:7000/1", Endpoint("redis", (Address("::1", 7000),), database=1)),
        ("redis://[fe80::1%eth0]", Endpoint("redis", (Address("fe80::1%eth0", 6379),))),
        ("unix:///run/r.sock", Endpoint("unix", path="/run/r.sock")),
        (
            "unix://u:p@/run/my%20r.sock?db=2",
            Endpoint("unix", path="/run/my r.sock", username="u", password="p", database=2),
        ),
        (
            "redis+sentinel://u:p@a:1,[::1]:2,b/my-svc/3?role=replica&sentinel_username=w&sentinel_password=s%40",
            Endpoint(
                "redis+sentinel",
                (Address("a", 1), Address("::1", 2), Address("b", 26379)),
                username="u",
                password="p",
                database=3,
                service=Service("my-svc", "replica", "w", "s@"),
            ),
        ),
        (
            "rediss+sentinel://a/m?db=2",
            Endpoint("rediss+sentinel", (Address("a", 26379),), database=2, service=Service("m")),
        ),
        (
            "redis+cluster://u:p@a:1,[::1]:2,b",
            Endpoint(
                "redis+cluster",
                (Address("a", 1), Address("::1", 2), Address("b", 6379)),
                username="u",
                password="p",
            ),
        ),
    ],
)
def test_parses(url: str, expected: Endpoint) -> None:
    assert Endpoint.parse(url, "source") == expected


@given(
    scheme=st.sampled_from(["redis", "rediss", "redis+cluster", "rediss+cluster"]),
    addresses=st.lists(ADDRESSES, min_size=1, max_size=4),
    username=CREDENTIALS,
    password=CREDENTIALS,
    database=st.integers(0, 99),
)
def test_a_url_that_is_built_is_parsed_back(
    scheme: str, addresses: list[Address], username: str | None, password: str | None, database: int
) -> None:
    if not scheme.endswith("cluster"):
        del addresses[1:]
    user, secret = (None if text is None else quote(text, safe="") for text in (username, password))
    login = "" if user is secret is None else f"{user or ''}{'' if secret is None else ':' + secret}@"
    url = f"{scheme}://{login}{','.join(map(str, addresses))}/{database}"
    endpoint = Endpoint.parse(url, "target")
    assert endpoint == Endpoint(scheme, tuple(addresses), None, username, password, database)
    # And the identity is a URL of the same place, without the login.
    again = Endpoint.parse(endpoint.identity, "target")
    assert (again.scheme, sorted(again.addresses), again.database) == (scheme, sorted(addresses), database)
    assert again.username is again.password is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is not a URL"),
        ("localhost:6379", "is not a URL"),
        ("http://h", "unknown scheme http://"),
        ("redis+sentinel://h", "names no service"),
        ("redis+sentinel://h/?role=primary", "names no service"),
        ("redis+sentinel://h/my master", "unreadable service"),
        ("redis+sentinel://h/m?role=master", "unknown role"),
        ("redis+sentinel://h/m/x", "database"),
        ("redis+sentinel://h/m/1?db=1", "database twice"),
        ("redis+sentinel://u@v@h/m", "more than one '@'"),
        ("redis://h?role=replica", "unknown parameter 'role'"),
        ("redis://", "no host"),
        ("redis://:7000", "no host"),
        ("redis://h:0", "port outside"),
        ("redis://h:65536", "port outside"),
        ("redis://h:port", "unreadable host or port"),
        ("redis://::1:6379", "unreadable host or port"),
        ("redis://[::1", "unreadable host or port"),
        ("redis://a,b", "several hosts"),
        ("redis+cluster://a,,b", "no host"),
        ("redis+cluster://u:p@a,u:p@b", "more than one '@'"),
        ("redis://h/zero", "database that is not a number"),
        ("redis://h/-1", "database that is not a number"),
        ("redis://h/1?db=1", "database twice"),
        ("redis://h?db=1&db=2", "'db' twice"),
        ("redis://h?socket_timeout=3", "unknown parameter 'socket_timeout'"),
        ("redis://h#frag", "'#'"),
        ("unix://", "no path"),
        ("unix://run/r.sock", "relative path"),
    ],
)
def test_refuses_what_makes_no_sense(url: str, says: str) -> None:
    with pytest.raises(UsageError, match=f"^the source URL .*{says}") as caught:
        Endpoint.parse(url, "source")
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hint


SECRET = "Hunter2secret"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h",
        f"redis://user:{SECRET}@h:7000/2",
        f"redis://h?password={SECRET}",
        f"redis+sentinel://u:{SECRET}@h,i/m?role=replica",
        f"redis+sentinel://h/m?sentinel_username=w&sentinel_password={SECRET}",
        f"unix://:{SECRET}@/run/r.sock",
        f"unix:///run/r.sock?password={SECRET}",
        f"redis+cluster://:{SECRET}@a,b",
    ],
)
def test_no_text_of_an_endpoint_shows_its_password(url: str) -> None:
    endpoint = Endpoint.parse(url, "source")
    assert SECRET in (endpoint.password, endpoint.service.password if endpoint.service else None)
    for text in (repr(endpoint), str(endpoint), endpoint.identity, endpoint.target_identity):
        assert SECRET not in text


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}/x@h",  # a password that should have been encoded looks like host, path, query...
        f"redis://:{SECRET}?x@h",
        f"redis://:x?{SECRET}@h",
        f"redis://:x?{SECRET}=1@h",
        f"redis://:x/{SECRET}@h",
        f"redis://:{SECRET}#x@h",
        f"redis://:x@h:{SECRET}",
        f"redis://:{SECRET}@",
        f"redis://:{SECRET}@h:99999",
        f"redis://:{SECRET}@h/db",
        f"redis://:{SECRET}@h?nonsense=1",
        f"redis://h?password={SECRET}&nonsense=1",
        f":{SECRET}@h:6379",
        f":{SECRET}://h:6379",
        f"unix://:{SECRET}@run/r.sock",
        f"redis+cluster://:{SECRET}@a,:{SECRET}@b",
        f"redis+sentinel://:{SECRET}/x@h/m",
        f"redis+sentinel://:{SECRET}/x/0@h/m",
        f"redis+sentinel://h/{SECRET}@m",
        f"redis+sentinel://h/m?role={SECRET}",
        f"redis+sentinel://h/m?sentinel_password={SECRET}&nonsense=1",
    ],
)
def test_no_error_shows_a_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Endpoint.parse(url, "source")
    assert SECRET.lower() not in f"{caught.value} {caught.value.hint}".lower()


@given(
    st.sampled_from(["", "redis://", "unix://", "redis+cluster://", "redis+sentinel://"]),
    st.text(max_size=60),
)
def test_any_text_is_parsed_or_refused(scheme: str, text: str) -> None:
    try:
        Endpoint.parse(scheme + text, "source")
    except UsageError as error:
        assert str(error).isprintable()  # noqa: PT017 - both ways are right


def test_the_identity_is_the_same_for_the_same_place() -> None:
    one = Endpoint.parse("redis+cluster://u:p@B:2,a:1", "target")
    other = Endpoint.parse("redis+cluster://a:1,b:2/0", "target")
    assert one.identity == other.identity == "redis+cluster://a:1,b:2/0"
    seed = Endpoint.parse("redis://a:1", "target")
    assert seed.target_identity == "redis+cluster://a:1/0"
    assert seed.identity == "redis://a:1/0"


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"secret\nsecond line\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"sec\x0bret\xe2\x80\xa8", "sec\x0bret\u2028"),
        (b"\xef\xbb\xbfsecret", "secret"),
    ],
)
def test_a_password_is_the_first_line_of_its_file(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert read_password_file("source", file) == password


def test_a_password_that_is_given_goes_before_the_one_of_the_url() -> None:
    endpoint = Endpoint.parse("redis://u:inurl@h", "source")
    assert endpoint.with_credentials("other", Tls()).password == "other"
    assert endpoint.with_credentials(None, Tls()).password == "inurl"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "can't be read"),
        (b"", "empty"),
        (b"\nsecret", "empty"),
        (b"\xff", "not UTF-8"),
        (b"x" * 70_000, "more than 64 kB"),
    ],
)
def test_a_password_file_that_is_of_no_use_is_refused(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=says):
        read_password_file("target", file)


def test_tls_options_need_a_tls_url() -> None:
    endpoint = Endpoint.parse("redis://h", "source")
    with pytest.raises(UsageError, match="not reached over TLS"):
        endpoint.with_credentials(None, Tls(insecure=True))


@pytest.mark.parametrize(("content", "says"), [(None, "can't be read"), (b"no pem", "not in PEM format")])
def test_a_tls_file_that_is_of_no_use_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    endpoint = Endpoint.parse("rediss://h", "source").with_credentials(None, Tls(ca=file))
    with pytest.raises(UsageError, match=says):
        endpoint.access((None, None))


def test_a_key_that_the_engine_cannot_read_is_a_usage_error(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n")
    endpoint = Endpoint.parse("rediss://h", "source").with_credentials(None, Tls(ca=file))
    with pytest.raises(UsageError):
        endpoint.access((None, None))


def test_access_shows_no_secret() -> None:
    assert SECRET not in repr(Endpoint.parse("redis://h", "source").access(("u", SECRET)))
