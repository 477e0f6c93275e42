"""Who besides this user may change a file: its owner, its group and everyone, there and in its
folder."""

import logging
import os
import stat
from contextlib import suppress

__all__ = ["foreign_owner", "warn_of_owner", "writers"]

_log = logging.getLogger(__name__)


def foreign_owner(found: os.stat_result) -> str | None:
    """The name of the owner of what was *found*, if that is another user; None for this user, for
    root, who may change every file, and on Windows."""
    if not hasattr(os, "geteuid") or found.st_uid in (0, os.geteuid()):
        return None
    return _user(found.st_uid)


def warn_of_owner(path: str, found: os.stat_result) -> None:
    """Log a warning if what was *found* at *path* belongs to another user."""
    owner = foreign_owner(found)
    if owner is not None:
        _log.warning(
            "%s belongs to %s, who can put answers into it: use a file of your own unless that is"
            " meant",
            path,
            owner,
        )


def writers(path: str) -> list[str]:
    """Who besides this user and root may change the file at *path* or put another in its place,
    and why; access control lists are not looked at."""
    folder = os.path.dirname(path) or "."
    found = [*_of(os.stat(path), "file")]
    at = os.stat(folder)
    # in a folder like /tmp, files are replaced by their owners alone
    found += [] if at.st_mode & stat.S_ISVTX else _of(at, f"folder {folder}")
    return found


def _of(found: os.stat_result, what: str) -> list[str]:
    owner, group = foreign_owner(found), _group(found)
    reasons = [f"{owner} owns the {what}"] if owner is not None else []
    if found.st_mode & stat.S_IWGRP and group is not None:
        reasons.append(f"group {group} may write to the {what}")
    if found.st_mode & stat.S_IWOTH:
        reasons.append(f"everyone may write to the {what}")
    return reasons


def _user(uid: int) -> str:
    with suppress(ImportError, KeyError):
        import pwd

        return f"user {pwd.getpwuid(uid).pw_name}"
    return f"user {uid}"


def _group(found: os.stat_result) -> str | None:
    """The group of what was *found*; None if it is one that its owner is alone in."""
    with suppress(ImportError, KeyError):
        import grp
        import pwd

        group, owner = grp.getgrgid(found.st_gid), pwd.getpwuid(found.st_uid)
        alone = group.gr_name == owner.pw_name and not set(group.gr_mem) - {owner.pw_name}
        return None if alone else group.gr_name
    return str(found.st_gid)
