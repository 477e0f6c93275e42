"""CachedLLM gives back the model it was given, in all but where the answers come from."""

import copy
import gc
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from llama_index.core import Settings
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms import LLM, ChatMessage, MockLLM
from llama_index.core.llms.loading import load_llm
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.llms.structured_llm import StructuredLLM
from llama_index_llm_cache_mem import CachedLLM, cache_of, uncached

from llm_cache_mem import LLMCache, options

ROOT = Path(__file__).resolve().parents[2]


class Answer(BaseModel):
    text: str


def test_text_inference_embedding_class():
    assert BaseLLM.__name__ in [base.__name__ for base in type(CachedLLM(MockLLM())).__mro__]


def test_is_an_instance_of_the_class_of_the_model(cache):
    llm = CachedLLM(MockFunctionCallingLLM(), cache)
    assert isinstance(llm, MockFunctionCallingLLM)
    assert isinstance(llm, CachedLLM)
    assert (type(llm).__name__, type(llm).__module__) == (
        "MockFunctionCallingLLM",
        "llama_index.core.llms.mock",
    )
    assert type(llm) is type(CachedLLM(MockFunctionCallingLLM(), cache))

    class Holder(BaseModel):
        llm: MockFunctionCallingLLM

    assert Holder(llm=llm).llm is llm


def test_fits_settings(cache):
    before = Settings._llm
    try:
        Settings.llm = llm = CachedLLM(MockLLM(), cache)
        assert Settings.llm is llm
    finally:
        Settings._llm = before


def test_takes_a_cache_or_the_settings_of_one(cache):
    assert cache_of(CachedLLM(MockLLM(), cache)) is cache
    made = cache_of(CachedLLM(MockLLM(), max_size=7, ttl_seconds=60, backend="memory"))
    assert isinstance(made, LLMCache)
    for wrong in (
        lambda: CachedLLM(MockLLM(), cache, max_size=7),
        lambda: CachedLLM("gpt"),
        lambda: CachedLLM(MockLLM(), {}),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_shares_its_state_with_the_model(parrot, cache):
    llm = CachedLLM(parrot, cache)
    llm.temperature = 0.9
    assert parrot.temperature == 0.9
    parrot.model = "parrot-2"
    assert llm.model == "parrot-2"
    assert "parrot-2/0.9" in llm.complete("x").text


def test_a_changed_parameter_misses(parrot, cache):
    llm = CachedLLM(parrot, cache)
    for temperature in (0.1, 0.2, 0.1):
        llm.temperature = temperature
        assert f"/{temperature}:" in llm.complete("x").text
    assert len(parrot.calls) == 2


def test_the_model_itself_stays_uncached(parrot, cache):
    llm = CachedLLM(parrot, cache)
    assert uncached(llm) is parrot
    assert uncached(parrot) is parrot
    assert cache_of(parrot) is None
    parrot.complete("x")
    parrot.complete("x")
    assert len(parrot.calls) == 2


def test_wrapping_twice_wraps_once(parrot, cache):
    llm = CachedLLM(CachedLLM(parrot), cache)
    assert uncached(llm) is parrot
    assert cache_of(llm) is cache


def test_a_structured_llm_is_cached_inside(parrot, cache):
    llm = CachedLLM(StructuredLLM(llm=parrot, output_cls=Answer), cache)
    assert type(llm) is StructuredLLM
    assert llm.output_cls is Answer
    assert cache_of(llm) is cache
    assert cache_of(uncached(llm)) is None


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda x: x.model_copy(), lambda x: x.model_copy(deep=True)],
)
def test_copies_are_cached_by_the_same_cache(duplicate, parrot, cache):
    llm = CachedLLM(parrot, cache)
    other = duplicate(llm)
    other.temperature = 0.9
    assert parrot.temperature == 0.5
    assert cache_of(other) is cache
    assert type(other) is type(llm)
    assert uncached(other) is not parrot


def test_model_copy_takes_updates(parrot, cache):
    other = CachedLLM(parrot, cache).model_copy(update={"temperature": 0.9})
    assert "/0.9:" in other.complete("x").text
    assert parrot.temperature == 0.5


def test_pickles_with_its_cache(tmp_path):
    llm = CachedLLM(
        MockLLM(max_tokens=3), LLMCache(backend=f"sqlite:///{tmp_path}/cache.db", namespace="n")
    )
    llm.complete("x")
    other = pickle.loads(pickle.dumps(llm))
    assert type(other) is type(llm)
    assert other.to_dict() == llm.to_dict()
    other.complete("x")
    assert cache_of(other).stats().hits == 1


def test_serialises_as_the_model():
    llm = CachedLLM(MockLLM(max_tokens=3))
    assert llm.to_dict() == MockLLM(max_tokens=3).to_dict()
    assert llm.to_json() == MockLLM(max_tokens=3).to_json()
    assert llm.model_dump() == MockLLM(max_tokens=3).model_dump()
    restored = load_llm(llm.to_dict())
    assert type(restored) is MockLLM


def test_behaves_like_the_model(parrot, make_parrot, cache):
    llm = CachedLLM(parrot, cache)
    assert llm == parrot == llm
    assert llm == CachedLLM(parrot)
    assert llm != CachedLLM(make_parrot(model="other"), cache)
    with pytest.raises(TypeError):
        hash(llm)


def test_repr_shows_no_field(make_parrot, cache):
    for text in (
        repr(CachedLLM(make_parrot(system_prompt="sesame"), cache)),
        str(CachedLLM(make_parrot(system_prompt="sesame"), cache)),
    ):
        assert "sesame" not in text
        assert text.startswith("CachedLLM(Parrot, LLMCache(")


def test_its_class_makes_models_without_a_cache(parrot, cache):
    made = type(CachedLLM(parrot, cache))(temperature=0.9)
    assert cache_of(made) is None
    assert "/0.9:" in made.complete("x").text
    assert "/0.9:" in made.complete("x").text
    assert cache.stats().misses == 0


def test_a_method_above_the_leaves_runs_on_the_view(make_parrot, cache):
    class Own(make_parrot):
        def twice(self) -> str:
            return self.complete("x").text + self.complete("x").text

    own = Own()
    CachedLLM(own, cache).twice()
    assert len(own.calls) == 1


def test_leaves_that_call_leaves_store_one_entry(parrot, cache):
    CachedLLM(parrot, cache).chat([ChatMessage(content="x")])  # CustomLLM.chat calls complete
    assert cache.stats().size == 1


def test_views_are_collected(parrot, cache):
    import weakref

    references = [weakref.ref(CachedLLM(parrot, cache)) for _ in range(100)]
    gc.collect()
    assert not any(reference() for reference in references)


def test_no_public_name_hides_a_field():
    added = {name for name in vars(CachedLLM) if not name.startswith("_")}
    assert added <= set(dir(LLM))


def test_a_missing_llama_index_names_the_package():
    code = (
        "import sys; sys.modules['llama_index'] = None; sys.modules['llama_index.core'] = None\n"
        "try:\n    import llama_index_llm_cache_mem\n"
        "except ImportError as exc:\n    print(exc)"
    )
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'integrations'}", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert "pip install 'llm-cache-mem[llama-index]'" in done.stdout


def test_the_core_does_not_load_llama_index():
    code = (
        "import llm_cache_mem, sys; print([name for name in sys.modules if"
        " name.startswith(('llama_index', 'pydantic'))])"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_pickled_view_carries_its_namespace(tmp_path):
    llm = CachedLLM(MockLLM(), backend=tmp_path / "answers.db", require_namespace=True)
    with options(namespace="acme"):
        travelled = pickle.loads(pickle.dumps(llm))
        llm.complete("x")
    travelled.complete("x")  # as in a worker, which has no options of its own
    assert cache_of(travelled).stats().hits == 1
    cache_of(travelled).close()
    cache_of(llm).close()
