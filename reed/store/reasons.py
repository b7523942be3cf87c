"""What an object store says of an error, as one line with what to do."""

from __future__ import annotations

import re

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_NO_RETRY = re.compile("40[0-79]|41[0-79]|30[0-9]")  # but 408 (too slow) and 418 to 429 (too many)
ADVICE = {
    "NoSuchBucket": "there is no such bucket; create it, or correct the name",
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
    "412": "the object has changed meanwhile; rerun with what is there now",
    "501": "this store can only be read",
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


def explained(reason: str, code: str) -> str:
    """Return what went wrong, and what to do where that is known."""
    if "169.254." in reason:
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_SKIP_SIGNATURE=true for a public bucket"
        )
    status = _STATUS.search(reason)
    told = f"status {status[1]}, " if status else ""
    return told + (ADVICE.get(code) or brief(reason))


def brief(reason: str) -> str:
    """Return the first line of an error without the URL and the seconds that it repeats."""
    line = reason.split("\n")[0].split("Debug source")[0]
    line = line.rpartition(" - ")[2] if " - " in line else line
    return " ".join(re.sub("<[^>]*>", " ", line).split())[:200].strip(" :")
