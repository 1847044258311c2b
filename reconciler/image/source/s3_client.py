"""Requests to S3: clients, their credentials and endpoints, signatures. The only module that imports boto3.

Called by ``s3``. State: one client for each distinct S3Options, for the life of the process; one that was refused is forgotten,
so that new credentials are picked up.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from reconciler import __version__
from reconciler.dataclass import replace
from reconciler.errors import ReconcilerError, SourceForbidden, SourceNotFound, SourceUnavailable
from reconciler.image.source.transport import Request
from reconciler.image.spec import S3Options, Source
from reconciler.policy import force

_clients: dict[S3Options, Any] = {}
_connecting = threading.Lock()
_signing = threading.local()


def _plain_endpoint(options: S3Options) -> str:
    """The endpoint where nothing is to be signed and it is given, so that no boto3 is needed; else empty."""
    return (options.endpoint_url or "") if options.anonymous else ""


def load(options: S3Options) -> float:
    """Import what requests with these options need; return the seconds that it took."""
    if _plain_endpoint(options):
        return 0.0
    began = time.monotonic()
    import boto3.session  # noqa: F401 - loaded now, used later

    return time.monotonic() - began


def request(source: Source, options: S3Options, method: str, headers: Mapping[str, str]) -> Request:
    """The request, as boto3 would send it; without boto3 where nothing is to be signed and the endpoint is given.

    Loading boto3 and making a client costs half of the CPU of a run that finds nothing to do.
    """
    bucket, key = source.bucket_key
    if not (plain := _plain_endpoint(options)):
        if options.endpoint_url and not options.anonymous:
            force.require_credentials(options.endpoint_url)
        with _describing(source):
            signed = _signed(client_for(options), method, {"Bucket": bucket, "Key": key}, headers)
        return signed if options.endpoint_url else replace(signed, checked=False)  # the endpoint is Amazon's, or the host's own
    endpoint = urlsplit(plain)
    try:
        usable = endpoint.scheme in ("http", "https") and endpoint.hostname and endpoint.port != 0
    except ValueError:
        usable = False
    if not usable:
        message = f"{source.url} can't be asked for: {options.endpoint_url!r} is not an http or https URL"
        raise SourceNotFound(message, hint="check the source and s3.endpointUrl")
    path = f"{endpoint.path.rstrip('/')}/{quote(bucket)}/{quote(key)}"
    netloc = endpoint.netloc.rpartition("@")[2]
    agent = {"User-Agent": f"reconciler/{__version__}"}
    cafile = _certificates_without_boto() if endpoint.scheme == "https" else ""
    return Request(method, f"{endpoint.scheme}://{netloc}{path}", agent | dict(headers), cafile)


def _signed(client: Any, method: str, wanted: dict[str, str], headers: Mapping[str, str]) -> Request:
    """What boto3 would send now. ``_capture`` keeps it from doing so."""
    extra = {{"Range": "Range", "If-Match": "IfMatch"}[name]: value for name, value in headers.items()}
    (client.get_object if method == "GET" else client.head_object)(**wanted, **extra)
    prepared = _signing.request
    texts = {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in prepared.headers.items()}
    return Request(method, prepared.url, texts, _signing.cafile)


def _capture(cafile: str) -> Callable[..., Any]:
    """Keeps the signed request for the calling thread, and answers it with nothing."""
    from botocore.awsrequest import AWSResponse

    class Nothing:
        def stream(self) -> Iterator[bytes]:
            return iter(())

    def handler(request: Any, **_: Any) -> Any:
        _signing.request, _signing.cafile = request, cafile
        return AWSResponse(request.url, 200, {}, Nothing())

    return handler


def moved(options: S3Options, request: Request, url: str) -> Request:
    """The same request to another URL; signed anew where it was signed."""
    signed = {"authorization", "host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    plain = {name: value for name, value in request.headers.items() if name.lower() not in signed}
    if "authorization" not in {name.lower() for name in request.headers}:
        return replace(request, url=url, headers=plain, checked=True)
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest

    if options.endpoint_url:
        force.require_credentials(url)
    with _connecting:
        session, region = _clients[options].session, _clients[options].client.meta.region_name
    again = AWSRequest(request.method, url, headers=plain)
    S3SigV4Auth(session.get_credentials().get_frozen_credentials(), "s3", region).add_auth(again)
    return replace(request, url=url, headers=dict(again.headers.items()), checked=True)


# ----------------------------------------------------------------------------------------------------- clients


class _Client:
    """A boto3 client, and the session that it was made in."""

    def __init__(self, options: S3Options) -> None:
        import boto3.session
        import botocore.session

        core = botocore.session.get_session()
        self.session = boto3.session.Session(botocore_session=core)
        self.client = _open_client(self.session, options, path_style=options.endpoint_url is not None)
        # The AWS environment can name an endpoint, too, and few endpoints but Amazon's own resolve a host name for each bucket.
        if options.endpoint_url is None and not is_amazon(self.client.meta.endpoint_url):
            self.client = _open_client(self.session, options, path_style=True)
        self.client.meta.events.register("before-send.s3", _capture(_certificates(core)))


def client_for(options: S3Options) -> Any:
    with _connecting:
        if options not in _clients:
            _clients[options] = _Client(options)
        return _clients[options].client


def forget(options: S3Options) -> None:
    """The next request reads the credentials again."""
    with _connecting:
        for one in [one for one in _clients if replace(one, region=options.region) == options]:
            del _clients[one]


def _open_client(session: Any, options: S3Options, *, path_style: bool) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config

    config = Config(
        signature_version=UNSIGNED if options.anonymous else None,
        # Directory buckets (S3 Express) would have a session created by a request of its own, which nothing here sends.
        s3={"disable_s3_express_session_auth": True} | ({"addressing_style": "path"} if path_style else {}),
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent_extra=f"reconciler/{__version__}",
    )
    return session.client("s3", endpoint_url=options.endpoint_url, region_name=options.region, config=config)


def _certificates(core: Any) -> str:
    """The file of the certificates that the AWS configuration trusts."""
    from botocore.httpsession import get_cert_path

    return str(core.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or get_cert_path(True))


def _certificates_without_boto() -> str:
    """The file that the environment names; empty for the system's certificates, where it has any."""
    named = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or ""
    system = ssl.get_default_verify_paths()
    if named or system.cafile or (system.capath and any(Path(system.capath).iterdir())):
        return named
    from botocore.httpsession import get_cert_path

    return str(get_cert_path(True))


def region(options: S3Options) -> str | None:
    found = _clients.get(options)
    return found.client.meta.region_name if found else options.region


def is_amazon(url: str) -> bool:
    return (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def endpoint(options: S3Options) -> str:
    found = _clients.get(options)
    return found.client.meta.endpoint_url if found else options.endpoint_url or "S3"


# ------------------------------------------------------------------------------------------------------ errors


@contextmanager
def _describing(source: Source) -> Iterator[None]:
    """Errors of boto3 before a request is sent, as typed errors."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise _failure(error, source) from error
    except ValueError as error:
        raise SourceNotFound(f"{source.url} can't be asked for: {error}", hint="check the source and s3.endpointUrl") from error


def _failure(error: Exception, source: Source) -> ReconcilerError:
    """The typed error of a request that could not be made."""
    from botocore import exceptions as boto

    unsigned = (boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.UnauthorizedSSOTokenError)
    if isinstance(error, unsigned):
        forget(source.s3)
        hint = "give AWS credentials, or set s3.anonymous: true for a public bucket"
        return SourceForbidden(f"{source.url} can't be read: {error}", hint=hint)
    if isinstance(error, (boto.ParamValidationError, boto.NoRegionError, boto.EndpointProviderError, boto.InvalidConfigError)):
        return SourceNotFound(f"{source.url} can't be asked for: {error}", hint="check bucket, key, s3.region and s3.endpointUrl")
    hint = "is the endpoint up, and reachable from this host?"
    return SourceUnavailable(f"{endpoint(source.s3)} does not answer for {source.url}: {error}", hint=hint)
