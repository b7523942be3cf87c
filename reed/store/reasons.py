"""What an object store says of an error, as one line with what to do."""

from __future__ import annotations

import re

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CAUSE = re.compile(r'(?:message|error): "([^"\n]+)"')
_MESSAGE = re.compile(r"<Message>\s*([^<\n]*)")
_NO_RETRY = re.compile("40[0-79]|41[0-79]|30[0-9]")  # but 408 (too slow) and 418 to 429 (too many)
ADVICE = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the name",
    "ContainerNotFound": "there is no such container; create it, or correct the name",
    "AuthenticationFailed": "the store does not accept these credentials; check the key or the "
    "token, until when it is valid, and the clock of this machine, then rerun to go on",
    "BlobImmutableDueToPolicy": "a policy keeps the object from being changed",
    "BlobImmutableDueToLegalHold": "a legal hold keeps the object from being changed",
    "RetentionPolicyNotMet": "a retention policy keeps the object from being changed",
    "ExpiredToken": "the credentials have expired; renew them, then rerun to go on",
    "TokenRefreshRequired": "the credentials have expired; renew them, then rerun to go on",
    "RequestTimeTooSkewed": "the clock of this machine is wrong; set it, then rerun to go on",
    "PermanentRedirect": "the bucket is in another region; set AWS_REGION",
    "AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "IllegalLocationConstraintException": "the bucket is in another region; set AWS_REGION",
    "401": "the store does not know these credentials",
    "403": "these credentials may not do that; ask the owner of the bucket for the permission",
    "404": "there is no such object",
    "405": "this store can only be read",
    "409": "the store refuses this for the object as it is",
    "412": "the object has changed meanwhile; rerun with what is there now",
    "501": "this store can only be read",
}

NO_CREDENTIALS = {
    "s3": "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
    "AWS_SKIP_SIGNATURE=true for a public bucket",
    "gs": "no credentials; set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or "
    "GOOGLE_SKIP_SIGNATURE=true for a public bucket",
    "az": "no credentials; set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or "
    "AZURE_SKIP_SIGNATURE=true for a public container",
}


def code(reason: str) -> str:
    """Return the code that a store gives for an error, or its HTTP status; empty without one."""
    named, status = _CODE.search(reason), _STATUS.search(reason)
    if named and named[1] in ADVICE:
        return named[1]
    return status[1] if status else ""


def is_final(reason: str, kind: str) -> bool:
    """Whether another attempt would fail in the same way."""
    status = _STATUS.search(reason)
    refused = ("PermissionDeniedError", "UnauthenticatedError", "PreconditionError")
    if kind in (*refused, "NotSupportedError", "FileNotFoundError") or "169.254." in reason:
        return True
    return bool(status and (_NO_RETRY.fullmatch(status[1]) or status[1] == "501"))


def is_absent(kind: str, code: str) -> bool:
    """Whether there is no such object, in a bucket that exists."""
    return code in ("404", "NoSuchKey") or (kind == "FileNotFoundError" and not code)


def unusable(reason: str) -> str:
    """Return why no request can be made, and what to do where that is known."""
    line = brief(reason)
    return line + ("; set AZURE_STORAGE_ACCOUNT_NAME" if "Account must be" in reason else "")


def explained(reason: str, code: str, url: str = "") -> str:
    """Return what went wrong, and what to do where that is known.

    Args:
        reason: What the client says.
        code: What `code` finds in it.
        url: Where it was.
    """
    if "169.254." in reason:  # it asked the machine for credentials, as the last resort
        return NO_CREDENTIALS.get(url.partition(":")[0], NO_CREDENTIALS["s3"])
    status = _STATUS.search(reason)
    told = f"status {status[1]}, " if status else ""
    return told + (ADVICE.get(code) or brief(reason))


def brief(reason: str) -> str:
    """Return what a store says in its answer; else the first line of an error, without the URL."""
    if (name := _CODE.search(reason)) and (message := _MESSAGE.search(reason)):
        return f"{name[1]}: {message[1].strip()}"[:200]
    if "kind: Timeout" in reason:
        return "no answer in time"
    if "kind: Connect" in reason and (cause := _CAUSE.search(reason)):
        return f"no connection: {cause[1]}"
    line = reason.split("\n")[0].split("Debug source")[0]
    line = line.rpartition(" - ")[2] if " - " in line else line
    return " ".join(re.sub("<[^>]*>", " ", line).split())[:200].strip(" :")
