"""Errors of artifacts and object stores, with messages that say what to do and never contain credentials."""

from __future__ import annotations

import os
import re

_USER_INFO = re.compile(r"(?<=://)(?!arn:)(?:[^\s/@]+|[^\s/@:]*:[^\s@]*)@")  # a secret key can contain slashes
_SIGNED = re.compile(
    r"\b(signature|credential|security-token|awsaccesskeyid|aws_secret_access_key|aws_session_token|sig)=[^&\s,;'\"]+",
    re.IGNORECASE,
)
_MIN_SECRET_LENGTH = 8  # shorter values, as of a test server, can be ordinary words


class ArtifactError(ValueError):
    """An artifact or a storage location that cannot be used; the message says why and what to do.

    It is missing, incomplete or damaged, access is denied, or it is of another kind or schema. Credentials are
    removed from the message.
    """

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


class StoreError(ArtifactError, OSError):
    """An object store that refuses a request or does not respond. The artifact itself may be intact."""


def scrub(text: str) -> str:
    """Returns ``text`` without credentials.

    Removed are user information in URIs, signatures of signed URIs, and the secrets of the environment.
    """
    text = _SIGNED.sub(r"\1=***", _USER_INFO.sub("***@", text))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        secret = os.environ.get(name, "")
        if len(secret) >= _MIN_SECRET_LENGTH:
            text = text.replace(secret, "***")
    return text


def has_credentials(uri: str) -> bool:
    """Returns whether a URI contains user information."""
    return _USER_INFO.search(uri) is not None


def bucket_of(uri: str) -> str:
    """Returns the bucket of ``s3://bucket/key``."""
    return uri.partition("://")[2].partition("/")[0]


def endpoint() -> str:
    """Returns the endpoint of S3 requests, for messages."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


_ACCESS_DENIED = (
    "access is denied: ask for the rights to list, read, write and delete there "
    "(without the right to list, this is also the answer for a missing object)"
)
_SESSION = "the session token has expired or is not valid: renew it, or unset AWS_SESSION_TOKEN"
_REGION = "the bucket {bucket} is in another region: set AWS_REGION to it"
_BUSY = "{endpoint} is overloaded or broken, and stayed so through all attempts: try again later"
_NO_CREDENTIALS = "no usable credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_NO_ANSWER = "{endpoint} does not answer: check AWS_ENDPOINT_URL, and whether this machine reaches it"
_CONNECTION_LOST = (
    "the connection to {endpoint} broke off or timed out in all attempts: check the network, or try again later"
)
_BUCKET_NAME = "{bucket} is not a valid name of a bucket: correct the URI"

_EXPLANATIONS = {
    "NoSuchBucket": "there is no bucket {bucket} at {endpoint}: create it, or correct the URI or AWS_ENDPOINT_URL",
    **dict.fromkeys(("InvalidBucketName", "ParamValidationError"), _BUCKET_NAME),
    "InvalidAccessKeyId": "{endpoint} does not know the access key: check AWS_ACCESS_KEY_ID (or the profile), "
    "and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key: check AWS_SECRET_ACCESS_KEY "
    "(or the profile)",
    "RequestTimeTooSkewed": "this machine's clock is wrong by more than S3 allows: set it (NTP)",
    **dict.fromkeys(("AccessDenied", "AllAccessDisabled", "403"), _ACCESS_DENIED),
    **dict.fromkeys(("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), _SESSION),
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"), _REGION
    ),
    **dict.fromkeys(("SlowDown", "ServiceUnavailable", "InternalError", "500", "502", "503", "504"), _BUSY),
    **dict.fromkeys(
        (
            "NoCredentialsError",
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "TokenRetrievalError",
            "SSOError",
        ),
        _NO_CREDENTIALS,
    ),
    "ProfileNotFound": "AWS_PROFILE names a profile that is not in the configuration of this machine",
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"), _NO_ANSWER),
    **dict.fromkeys(("HTTPClientError", "ClientPayloadError", "FSTimeoutError"), _CONNECTION_LOST),
}
"""Explanations by the code of an S3 error, or by the name of an exception of botocore, aiohttp or fsspec.

The response to a HEAD request has no code but its status. Names are compared so that none of these libraries is
imported.
"""


def explain_error(error: BaseException, uri: str) -> str | None:
    """Explains an error of an object store.

    Args:
        error: as raised by s3fs, botocore or aiohttp; causes are searched as well.
        uri: of the object.

    Returns:
        what is wrong and what to do; None for other errors and for an object that does not exist.
    """
    cause: BaseException | None = error
    while cause is not None:  # s3fs raises built-in exceptions whose cause is botocore's
        response = getattr(cause, "response", None)
        details = response.get("Error", {}) if isinstance(response, dict) else {}
        code = details.get("Code")
        for name in (code, *(c.__name__ for c in type(cause).__mro__)):
            if name in _EXPLANATIONS:
                return _EXPLANATIONS[name].format(bucket=bucket_of(uri), endpoint=endpoint())
        if code == "InvalidRange":
            return None  # the object is shorter than the requested range
        if details and not isinstance(error, FileNotFoundError):
            return f"{endpoint()} refuses ({code}: {details.get('Message', 'no reason given')})"
        cause = cause.__cause__
    return None
