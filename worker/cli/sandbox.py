"""`post-purchase sandbox`: the stand-in provider as a process.

Decides where it listens, with which certificate, and which credentials it takes: those of the accounts that point at
it. Leaves everything else to `worker.sandbox`, which knows nothing of settings.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .edge import BadInput, examples, invocation
from .output import AsJson, print_json, print_line

if TYPE_CHECKING:
    from ..config import Settings

_HIGHEST_PORT = 65_535


def add_to(app: typer.Typer) -> None:
    """Put the command on the command line."""
    app.command("sandbox", epilog=examples("post-purchase --profile sandbox sandbox --create-orders 100000"))(sandbox)


def sandbox(
    ctx: typer.Context,
    *,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="Address of both ports. Default: sandbox.host.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=_HIGHEST_PORT, help="The provider's port, 0 for any. Default: sandbox.port."
        ),
    ] = None,
    control_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=_HIGHEST_PORT, help="The control port, 0 for any. Default: sandbox.control_port."
        ),
    ] = None,
    create_orders: Annotated[
        int | None,
        typer.Option(metavar="AMOUNT", min=1, help="Make an unknown order on its first use, with this amount."),
    ] = None,
    orders: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Orders to begin with, one JSON object a line.")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Speak https with this certificate (PEM). Default: plain http."),
    ] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of the certificate (PEM).")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a stand-in for the provider.

    Its two addresses are printed once it can be reached; it runs until told to stop, and keeps nothing. Another host
    reaches it by https only, so it needs a certificate there; the control port speaks plain http always.
    """
    from ..logs import configure  # noqa: PLC0415  # --help must be quick
    from ..sandbox import SandboxError, serve  # noqa: PLC0415  # the same

    def say(base_url: str, control_url: str) -> None:
        if as_json:
            print_json({"base_url": base_url, "control_url": control_url})
        else:
            print_line(f"sandbox {base_url} control {control_url}")

    settings = invocation(ctx).settings(require_credentials=True)
    configure(settings.log)
    listen = settings.sandbox
    try:
        serve(
            host=host or listen.host,
            port=listen.port if port is None else port,
            control_port=listen.control_port if control_port is None else control_port,
            orders_file=orders,
            create_orders=create_orders,
            accounts=_accounts(settings),
            tls=_tls(certificate, key=key),
            ready=say,
        )
    except SandboxError as error:
        raise BadInput([str(error)]) from None


def _tls(certificate: Path | None, *, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise BadInput(["--certificate and --key go together: give both, or none for plain http"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        why = error.strerror or error
        msg = f"cannot use {certificate} with the key {key} ({why}); they must be a pair of PEM files"
        raise BadInput([msg]) from None

    return context


def _accounts(settings: Settings) -> list[tuple[str, str, str]]:
    """Which accounts point at a sandbox, and what they send there: plain http leads no further than this machine."""
    return [
        (each.provider, each.username.get_secret_value(), each.password.get_secret_value())
        for each in settings.accounts.values()
        if each.base_url.startswith("http://") and each.username is not None and each.password is not None
    ]
