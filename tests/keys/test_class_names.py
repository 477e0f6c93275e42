"""The name of a class in a key, where others may have the same name."""

from typing import Any

from llm_cache_mem.keys.class_names import class_name


class Plain:
    style = "a"


def make(style: str, body: Any = None, **attributes: Any) -> type:
    class Local:
        def answer(self) -> str:
            return style

    if body is not None:
        Local.answer = body  # type: ignore[method-assign]
    for name, value in attributes.items():
        setattr(Local, name, value)
    return Local


def script(style: str) -> type:
    source = f"class Bot:\n def answer(self):\n  return {style!r}"
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(source, namespace)
    found: type = namespace["Bot"]
    return found


def test_a_class_of_a_module_is_known_by_its_name() -> None:
    assert class_name(Plain) == f"{__name__}.Plain"


def test_a_class_made_in_a_function_differs_by_what_its_methods_close_over() -> None:
    assert class_name(make("a")) == class_name(make("a")) != class_name(make("b"))


def test_a_class_made_in_a_function_differs_by_code_and_attributes() -> None:
    names = {class_name(make("a", body)) for body in (None, lambda self: "x", lambda self: "y")}
    names |= {class_name(make("a", kind=kind)) for kind in "ab"}
    assert len(names) == 5


def test_a_class_of_a_script_differs_when_its_code_changes() -> None:
    assert class_name(script("a")) == class_name(script("a")) != class_name(script("b"))


def test_a_subclass_of_a_class_made_in_a_function_differs_with_it() -> None:
    one, other = (type("Sub", (make(style),), {"__module__": __name__}) for style in "ab")
    assert class_name(one) != class_name(other)
