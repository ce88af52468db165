"""One stage for all tests of this folder: it takes seconds to set up, and looking changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.stage import chromium, find_chromium, stage


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def browser():
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def on_stage(browser, tmp_path_factory):
    """The whole of it; the first wait, five minutes, outlives the tests, and dispatch takes at once what it is left."""
    changes = {"RETRY__LADDER_SECONDS": "300,301,18000", "DISPATCH__REPUBLISH_SECONDS": "1"}
    with stage(tmp_path_factory.mktemp("stage"), **changes) as on:
        yield on


@pytest.fixture
def new_page(browser, on_stage):
    """Opens a window of somebody who gives this password, or none."""
    contexts = []

    def new_page(password=None):
        credentials = None if password is None else {"username": on_stage.user, "password": password}
        contexts.append(browser.new_context(http_credentials=credentials))
        contexts[-1].set_default_timeout(10_000)

        return contexts[-1].new_page()

    yield new_page
    for each in contexts:
        each.close()


@pytest.fixture
def page(new_page, on_stage):
    """The window of an operator."""
    return new_page(on_stage.password)
