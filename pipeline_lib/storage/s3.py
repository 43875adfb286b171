"""S3 through boto3: download, upload and list, with retries, checksums and one-line errors.

Credentials, region and endpoint come from boto3's own chain (environment, `~/.aws`, instance role);
`AWS_ENDPOINT_URL_S3` points it at MinIO, SeaweedFS or another server. Nothing secret enters a message.
Retries are botocore's `standard` mode: exponential backoff with jitter. Every upload carries its SHA-256 as
object metadata and a download that does not match it is an error; botocore adds its own CRC on the wire.

What passes by itself is StorageAway (exit code 1). An expired session token is CredentialsExpired (exit code 1 too, but not
waited for: the token is that of this process). Everything else, refused keys among it, is StorageError (exit code 2).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline_lib.errors import StorageAway, StorageError
from pipeline_lib.storage.atomic import atomic_path
from pipeline_lib.storage.hash import hash_bytes, hash_file

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

KEYS_FROM = "R1_S3_KEYS_FROM"
"""Environment variable: who handed us the AWS_* variables, so that a message can name the place where a wrong key is put right."""

_HASH_KEY = "sha256"
_ATTEMPTS = 4
_METADATA_ATTEMPTS = 5
"""How often an instance role's keys are asked for. botocore's default is once: one lost answer looks like having no keys."""
_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_EXPIRED = ("ExpiredToken", "TokenRefreshRequired")
_REFUSED = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied")
_BUSY = ("RequestTimeout", "SlowDown", "Throttling", "NoSuchUpload")
"""Codes below 500 that a later attempt may not meet; a multipart upload is forgotten when a server starts anew."""
_ENVIRONMENT = (
    *("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "HOME"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"),
)
"""What boto3 reads a client's settings from."""


class CredentialsExpired(StorageError):
    """The session token has expired. The next attempt of a stage gets the one that Airflow's connection has by then."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class S3Uri:
    """`s3://bucket/key`, taken apart."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> S3Uri:
        """Raises StorageError unless `uri` is s3://bucket or s3://bucket/key."""
        parts = urlsplit(uri)
        if parts.scheme != "s3" or not parts.netloc:
            raise StorageError(f"{uri}: not an S3 address. Write it as s3://bucket/key.")
        return cls(parts.netloc, parts.path.lstrip("/"))

    def __str__(self) -> str:
        """The address again."""
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class S3Object:
    """One object of a listing."""

    uri: S3Uri
    size: int
    """Bytes."""


def size_of(uri: str) -> int | None:
    """Bytes of one object; None when there is no such object. Raises StorageError; see `download`."""
    from botocore.exceptions import ClientError

    where = S3Uri.parse(uri)
    with _one_line_errors(where):
        try:
            return int(_client().head_object(Bucket=where.bucket, Key=where.key)["ContentLength"])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("404", "NoSuchKey", "NotFound"):
                return None
            raise


def read(uri: str) -> bytes:
    """A small object's bytes. Raises StorageError; see `download`."""
    where = S3Uri.parse(uri)
    with _one_line_errors(where):
        content: bytes = _client().get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
    return content


def write(content: bytes, uri: str) -> None:
    """Make a small object of bytes. Raises StorageError; see `download`."""
    where = S3Uri.parse(uri)
    with _one_line_errors(where):
        _client().put_object(
            Bucket=where.bucket, Key=where.key, Body=content, Metadata={_HASH_KEY: hash_bytes(content)}
        )


def download(uri: str, path: Path, check: Callable[[Path], None] | None = None) -> None:
    """Copy one object to `path`, whole or not at all, and check its SHA-256 where the object carries one.

    `check` may look at the file before it gets its name, and raise.

    Raises:
        StorageAway: The endpoint cannot be reached, or cannot answer now; a role's keys cannot be renewed now.
        CredentialsExpired: The session token has expired.
        StorageError: No such bucket or object, refused credentials, content that does not match its hash, full disk.
    """
    where = S3Uri.parse(uri)
    with _one_line_errors(where):
        client = _client()
        head = client.head_object(Bucket=where.bucket, Key=where.key)
        with atomic_path(Path(path), int(head["ContentLength"])) as temporary:
            client.download_file(where.bucket, where.key, str(temporary))
            expected = head.get("Metadata", {}).get(_HASH_KEY)
            found = hash_file(temporary)
            if expected is not None and expected != found:
                raise StorageError(
                    f"{where}: the content (sha256 {found[:12]}…) is not what was uploaded ({expected[:12]}…). "
                    "Upload it again."
                )
            if check is not None:
                check(temporary)


def upload(path: Path, uri: str) -> None:
    """Copy a file to one object and check that all of it arrived. Raises StorageError; see `download`."""
    where = S3Uri.parse(uri)
    path = Path(path)
    if not path.is_file():
        raise StorageError(f"{path}: no such file to upload to {where}.")
    with _one_line_errors(where):
        client = _client()
        client.upload_file(
            str(path), where.bucket, where.key, ExtraArgs={"Metadata": {_HASH_KEY: hash_file(path)}}
        )
        size = int(client.head_object(Bucket=where.bucket, Key=where.key)["ContentLength"])
    if size != path.stat().st_size:
        raise StorageError(f"{where}: {size} of {path.stat().st_size} bytes arrived. Upload it again.")


def delete(uri: str) -> None:
    """Remove one object; one that is not there is no error. Raises StorageError; see `download`."""
    where = S3Uri.parse(uri)
    with _one_line_errors(where):
        _client().delete_object(Bucket=where.bucket, Key=where.key)


def list_objects(uri: str) -> list[S3Object]:
    """Every object whose key starts with the address, sorted by key. Raises StorageError; see `download`."""
    where = S3Uri.parse(uri)
    found: list[S3Object] = []
    with _one_line_errors(where):
        pages = _client().get_paginator("list_objects_v2").paginate(Bucket=where.bucket, Prefix=where.key)
        for page in pages:
            for item in page.get("Contents", []):
                found.append(S3Object(S3Uri(where.bucket, item["Key"]), int(item["Size"])))
    return sorted(found, key=lambda item: item.uri.key)


def download_directory(uri: str, path: Path) -> None:
    """Copy every object below the address into `path`, keeping relative keys. Raises StorageError."""
    where = S3Uri.parse(uri.rstrip("/") + "/")
    objects = [item for item in list_objects(str(where)) if not item.uri.key.endswith("/")]
    if not objects:
        raise StorageError(f"{where}: there is nothing below this address. Check the prefix.")
    for item in objects:
        target = Path(path) / item.uri.key[len(where.key) :]
        if not target.resolve().is_relative_to(Path(path).resolve()):
            raise StorageError(f"{item.uri}: the key leaves the target directory. Rename the object.")
        download(str(item.uri), target)


def upload_directory(path: Path, uri: str) -> None:
    """Copy every file below `path` to the address, keeping relative paths. Raises StorageError."""
    path = Path(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if not files:
        raise StorageError(f"{path}: no file to upload to {uri}.")
    for file in files:
        upload(file, f"{uri.rstrip('/')}/{file.relative_to(path).as_posix()}")


def _client() -> Any:
    """The boto3 S3 client for the environment as it is now. Making one takes half a second, so it is kept."""
    return _client_for(tuple(os.environ.get(name) for name in _ENVIRONMENT))


@lru_cache(maxsize=4)
def _client_for(environment: tuple[str | None, ...]) -> Any:
    """A client with our timeouts and retries, from a session of its own: boto3's default one is not thread-safe."""
    import boto3
    from botocore.config import Config

    os.environ.setdefault("AWS_METADATA_SERVICE_NUM_ATTEMPTS", str(_METADATA_ATTEMPTS))
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        ),
        region_name=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
    )


def _endpoint() -> str:
    """Where requests go, for messages, without any user:password@ part."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "AWS"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


@contextlib.contextmanager
def _one_line_errors(where: S3Uri) -> Iterator[None]:
    """Turn boto3's exceptions into one StorageError line that names the address and the remedy."""
    from boto3.exceptions import Boto3Error, RetriesExceededError
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,
        CredentialRetrievalError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
        MetadataRetrievalError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageError(
            f"{where}: no S3 credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws/credentials, or login and "
            "password of the Airflow connection aws_default."
        ) from error
    except ClientError as error:
        raise _client_error(where, error) from error
    except (ConnectionError, HTTPClientError) as error:
        raise StorageAway(
            f"{where}: {_endpoint()} cannot be reached after {_ATTEMPTS} attempts ({type(error).__name__}). "
            "Check AWS_ENDPOINT_URL_S3 and that the server is up."
        ) from error
    except (CredentialRetrievalError, MetadataRetrievalError) as error:
        raise StorageAway(
            f"{where}: the credentials cannot be renewed now ({type(error).__name__}). "
            "Check the instance's role, or credential_process of the profile."
        ) from error
    except (FlexibleChecksumError, IncompleteReadError) as error:
        raise StorageAway(
            f"{where}: what {_endpoint()} sent arrived damaged or in part ({type(error).__name__}). Try again."
        ) from error
    except RetriesExceededError as error:
        raise StorageAway(f"{where}: {_endpoint()} broke the transfer off {_ATTEMPTS} times.") from error
    except Boto3Error as error:
        cause = error.__context__
        if isinstance(cause, ClientError):
            raise _client_error(where, cause) from error
        raise StorageError(f"{where}: {type(error).__name__}.") from error
    except BotoCoreError as error:
        raise StorageError(f"{where}: {type(error).__name__}: {error}") from error


def _client_error(where: S3Uri, error: ClientError) -> StorageError:
    """The line for a request that the server answered with an error."""
    code = str(error.response.get("Error", {}).get("Code", "unknown"))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code == "NoSuchBucket":
        return StorageError(
            f"{where}: there is no bucket {where.bucket!r} at {_endpoint()}. Create it or correct the name."
        )
    if code in ("NoSuchKey", "404", "NotFound"):
        return StorageError(f"{where}: no such object at {_endpoint()}. Check bucket and key.")
    giver = os.environ.get(KEYS_FROM)
    place = f" in {giver}" if giver else ""
    # The answer to HEAD has no body, and so no other code than its status.
    unnamed = code in ("400", "403") and bool(os.environ.get("AWS_SESSION_TOKEN"))
    if code in _EXPIRED or unnamed:
        return CredentialsExpired(
            f"{where}: {_endpoint()} refused the credentials ({code}): the session token {'may have' if unnamed else 'has'} "
            f"expired. Renew it{place}" + (", or check the keys and the bucket's policy." if unnamed else ".")
        )
    if status == 403 or code in _REFUSED:
        return StorageError(
            f"{where}: {_endpoint()} refused the credentials ({code}). Check the keys{place} and the bucket's policy."
        )
    if status >= 500 or status == 429 or code in _BUSY:
        return StorageAway(f"{where}: {_endpoint()} cannot serve it now ({code}, {status}). Try again later.")
    return StorageError(f"{where}: {_endpoint()} answered {code} ({status}).")
