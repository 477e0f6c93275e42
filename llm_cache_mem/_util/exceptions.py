"""A copy of an exception for each of those who raise it, since one object raised by many chains all
their tracebacks."""

import copy
from contextlib import suppress
from types import GetSetDescriptorType, MemberDescriptorType, TracebackType

__all__ = ["copy_exception"]


def copy_exception(error: BaseException, trace: TracebackType | None) -> BaseException:
    """A copy of *error*: the same type, attributes, notes and cause, and the traceback *trace*.

    What the attributes hold is shared. Where there is no way to make a copy, the original, its
    traceback cut back to *trace*.
    """
    for copied in (_by_fields, _by_reduce):
        with suppress(Exception):
            return _dressed(copied(error), error).with_traceback(trace)
    return error.with_traceback(trace)


def _by_fields(error: BaseException) -> BaseException:
    # An application's own __init__ is not called: it need not take args, and that of
    # openai.APIStatusError does not.
    cls = type(error)
    native = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    clone: BaseException = native.__new__(cls, *error.args)
    for base in cls.__mro__:  # fields in C, like errno, and __slots__
        for name, field in vars(base).items():
            if isinstance(
                field, (MemberDescriptorType, GetSetDescriptorType)
            ) and not name.startswith("__"):
                with suppress(AttributeError, TypeError):  # not set, or read-only
                    if (value := field.__get__(error)) is not getattr(clone, name, clone):
                        field.__set__(clone, value)
    clone.__dict__.update(error.__dict__)
    return clone


def _by_reduce(error: BaseException) -> BaseException:
    clone = copy.copy(error)
    if type(clone) is not type(error) or clone is error:
        raise TypeError("not a copy")
    clone.args = error.args
    return clone


def _dressed(clone: BaseException, error: BaseException) -> BaseException:
    clone.__cause__, clone.__context__ = error.__cause__, error.__context__
    clone.__suppress_context__ = error.__suppress_context__
    if hasattr(error, "__notes__"):
        clone.__notes__ = list(error.__notes__)
    return clone
