from ipaddress import ip_address

import pytest

from registry.config import Config, InvalidSettingError
from registry.domain.targets import Allowed, TargetRefusedError, check_address, check_target, parse_target

NOBODY = Allowed()


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://example.com", ("https", "example.com", 443, "/", "example.com")),
        ("HTTPS://Example.COM/A?b=c%20d", ("https", "example.com", 443, "/A?b=c%20d", "example.com")),
        ("https://example.com?x", ("https", "example.com", 443, "/?x", "example.com")),
        ("https://a-b.example.com:8443/", ("https", "a-b.example.com", 8443, "/", "a-b.example.com:8443")),
        ("https://8.8.8.8/x", ("https", "8.8.8.8", 443, "/x", "8.8.8.8")),
        ("https://[2606:4700::1111]:4443/", ("https", "2606:4700::1111", 4443, "/", "[2606:4700::1111]:4443")),
        ("https://xn--bcher-kva.example/", ("https", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example")),
    ],
)
def test_a_plain_url_is_taken_apart(url, parts):
    target = parse_target(url)
    check_target(target, Allowed())
    assert (target.scheme, target.host, target.port, target.path, target.authority) == parts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https:/example.com/",
        "https:///path",
        "https://user@example.com/",
        "https://user:password@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com#@127.0.0.1/",
        "https://example.com/#fragment",
        "https://exa mple.com/",
        "https://example.com/ HTTP/1.1\r\nHost: x",
        "https://example.com/\r\nX: y",
        "https://example.com\t/",
        " https://example.com/",
        "https://example.com/\n",
        "https://example.com./",
        "https://example..com/",
        "https://.example.com/",
        "https://-example.com/",
        "https://%31%32%37.0.0.1/",
        "https://example%2ecom/",
        "https://bücher.example/",
        "https://ⓛocalhost.example/",
        "https://１２７.0.0.1/",
        "https://example。com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:٤٤٣/",
        "https://example.com:25/",
        "https://example.com:22/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://127.1/",
        "https://127.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://127.0.0.1./",
        "https://1.2.3.4.5/",
        "https://256.1.1.1/",
        "https://8.8.8.08/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://[8.8.8.8]/",
        "https://::1/",
        "https://localhost/",
        "https://registry/",
        "https://example.com/" + "a" * 2048,
    ],
)
def test_anything_but_the_one_plain_spelling_is_refused(url):
    with pytest.raises(TargetRefusedError):
        check_target(parse_target(url), NOBODY)


SPECIAL = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1",
    "192.88.99.1", "192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::", "2620:4f:8000::1",
    "3fff::1", "4000::1", "5f00::1", "8000::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1",
    "ff02::1",
]  # fmt: skip


@pytest.mark.parametrize("address", SPECIAL)
def test_no_special_address_is_called(address):
    with pytest.raises(TargetRefusedError) as refused:
        check_address(parse_target("https://example.com/"), ip_address(address), NOBODY)
    assert address not in str(refused.value)  # names are resolved in here: what they mean is not told


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "192.0.1.1", "223.255.255.255", "2606:4700::1111"]
)
def test_a_public_address_is_called(address):
    check_address(parse_target("https://example.com/"), ip_address(address), NOBODY)


def test_without_tls_only_what_the_operator_allows_is_called():
    allowed = Allowed.of(["hooks.corp.example", "10.1.0.0/16", "ci", "[::1]", "127.0.0.1"])
    for url in (
        "http://hooks.corp.example/",
        "http://ci:81/x",
        "http://10.1.2.3/",
        "http://[::1]:9/",
        "http://127.0.0.1/",
    ):
        check_target(parse_target(url), allowed)
    for url in ("http://10.2.0.1/", "http://8.8.8.8/", "https://192.168.0.1/"):
        with pytest.raises(TargetRefusedError):
            check_target(parse_target(url), allowed)
    unknown = parse_target("http://other.example/")
    check_target(unknown, allowed)  # it may turn out to be in a network of the list
    check_address(unknown, ip_address("10.1.0.9"), allowed)
    with pytest.raises(TargetRefusedError):
        check_address(unknown, ip_address("8.8.8.8"), allowed)
    with pytest.raises(TargetRefusedError):
        check_target(unknown, Allowed.of(["hooks.corp.example"]))


def test_an_allowed_name_may_be_internal_but_never_a_cloud_s_metadata():
    allowed = Allowed.of(["hooks.corp.example"])
    target = parse_target("http://hooks.corp.example/")
    for address in ("10.0.0.1", "127.0.0.1", "::1", "fd12::1", "8.8.8.8"):
        check_address(target, ip_address(address), allowed)
    for address in ("169.254.169.254", "168.63.129.16", "fd00:ec2::254", "0.0.0.0", "::ffff:10.0.0.1", "224.0.0.1"):
        with pytest.raises(TargetRefusedError):
            check_address(target, ip_address(address), allowed)


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "300.1.1.1", "a b", "http://x", "*.example.com", "0x7f.1"])
def test_an_entry_of_the_allow_list_that_means_nothing_is_refused_at_the_start(entry):
    with pytest.raises(InvalidSettingError, match="REGISTRY_WEBHOOK_ALLOW"):
        Config(webhook_allow=(entry,))
