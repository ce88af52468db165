from __future__ import annotations

import pytest

from bench.target import NotLoopback, require_loopback


@pytest.mark.parametrize(
    "url",
    [
        "https://api.klarna.com",
        "https://api.playground.klarna.com",
        "https://sandbox.bluesnap.com",
        "http://10.0.0.1:8090",
        "http://0.0.0.0:8090",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@api.klarna.com",
        "http://localhost:8090",
        "",
    ],
)
def test_a_load_is_refused_any_target_that_is_not_this_machine(url):
    """Klarna forbids load tests, and the mistake is one wrong line in a profile; a name may lead anywhere."""
    with pytest.raises(NotLoopback, match="loopback addresses only"):
        require_loopback(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8090", "http://127.8.9.1", "http://[::1]:8090/path"])
def test_a_load_may_go_to_this_machine(url):
    """That is what the stub is for."""
    assert url == require_loopback(url)
