"""Addresses of the public internet, and all others."""

from __future__ import annotations

import pytest

from models.public_addresses import is_public_address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "240.0.0.1", "198.18.0.1",
        "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::a83f:8110", "100.100.100.200", "192.0.0.192", "192.0.0.9",
        "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.175.48.1", "198.51.100.1", "203.0.113.1",
        "239.1.1.1", "fec0::1", "fe80::1", "fc00::1", "fd20:ce::254", "::127.0.0.1", "64:ff9b:1::1", "100::1",
        "100:0:0:1::1", "2001::1", "2001:1::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:20::1", "2001:db8::1",
        "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "4000::1", "5f00::1",
    ],
)  # fmt: skip
def test_addresses_inside(address: str) -> None:
    assert not is_public_address(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "168.63.129.17", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_outside(address: str) -> None:
    assert is_public_address(address)
