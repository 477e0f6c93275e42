"""What secrets look like: the names of fields that hold them, and the forms that they have in a
text. One table, for redaction and for the checks of what was recorded."""

import re
from functools import lru_cache
from typing import Final

__all__ = ["REDACTED", "is_secret_name", "without_secrets", "words_of"]

REDACTED: Final = "[redacted]"

# -- Names of fields, in words: clientSecret and X-Client-Secret are client_secret

_NOUNS: Final = frozenset([
    "api_key", "api_keys", "apikey", "apikeys", "access_key", "access_key_id", "accesskey",
    "account_key", "admin_key", "auth_key", "encryption_key", "key_secret", "license_key",
    "master_key", "private_key", "secret_key", "secretkey", "service_key", "service_role_key",
    "shared_access_key", "shared_key", "signing_key", "ssh_key", "storage_key",
    "subscription_key", "webhook_key", "auth", "authorization", "conn_str",
    "connection_string", "connectionstring", "cookie", "cookies", "credential", "credentials",
    "accesstoken", "apitoken", "authtoken", "bearertoken", "idtoken", "refreshtoken",
    "sessiontoken", "jwt", "pass", "passphrase", "passwd", "password", "passwords", "pwd",
    "secret", "secrets", "token",
])  # fmt: skip
_VENDORS: Final = frozenset([
    "anthropic", "aws", "azure", "cohere", "deepseek", "fireworks", "gemini", "github",
    "gitlab", "google", "groq", "hf", "huggingface", "langsmith", "mistral", "openai",
    "openrouter", "perplexity", "pinecone", "replicate", "sendgrid", "serpapi", "slack",
    "stripe", "supabase", "tavily", "together", "twilio", "vertex", "voyage", "xai",
])  # fmt: skip
_LONGEST_NAME: Final = 100
_NO_SECRET_IN_ANSWERS: Final = frozenset({"token"})  # a piece of text, beside its probability
_WORD: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[-. ]")

# -- Texts

_FORMS: Final = (
    # keys by what they begin with
    r"(?<![A-Za-z0-9])(?:"
    r"(?:sk|rk|gsk|xai|pplx|r8|fw|tvly|nvapi|glpat|glsa|gh[pousr]|github_pat|lsv2_[a-z]{2}|sntrys"
    r"|xox[abeoprs]|figd|lin_api|shp(?:at|ca|pa|ss)|dop_v1|sbp|PMAK|pul)"
    r"[-_](?=[A-Za-z_-]{0,80}[0-9])[A-Za-z0-9_-]{16,}"
    r"|hf_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{16,}|dapi[0-9a-f]{32}"
    r"|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|hvs\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}"
    r"|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])|[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"  # a JSON web token
    r"|(?P<scheme>[Bb]earer )[A-Za-z0-9._~+/-]{16,}=*"
    # addresses that let in
    r"|(?P<hook>https://(?:hooks\.slack\.com/(?:services|workflows)|discord(?:app)?\.com/api"
    r"/webhooks)/)[A-Za-z0-9/_-]{16,}"
    r")"
    r"|(?P<query>[?&](?:api[-_]?key|key|token|access[-_]token|sig|signature)=)[^&\s\"'<>]{8,}"
    r"|(?P<url>[a-z][a-z0-9+.-]{1,20}://)[^\s/:@\"'<>]{0,100}:[^\s/@\"'<>]{1,200}(?=@)"
    r"|-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:(?!-----END)[\s\S])+(?:-----END [A-Z"
    r" ]{0,30}PRIVATE KEY-----)?"
)
_SECRETS: Final = re.compile(_FORMS)
_KEPT: Final = ("scheme", "query", "url", "hook")  # what stays in front of the secret

# A field of JSON at any depth of quoting, a header, a variable, a setting
_NAMED: Final = re.compile(
    r"(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z][A-Za-z0-9_.-]{1,60}+)(?P<quote>'|\\{0,8}\")?"
    r"\s{0,4}(?P<sign>[:=])\s{0,4}(?P<opening>'|\\{0,8}\")?"
)
_WORD_LIKE: Final = r"[^\s\"'`,;&<>(){}\[\]\\]"
_NO_CALL: Final = r"(?![(\[{])"  # code, that asks for the secret
_FIELD_VALUE: Final = re.compile(r"(?:[^\"\\\n]|\\[^\n]){1,2000}")
_COOKIES: Final = re.compile(r"(?=[\w.-]{1,60}=)[^\r\n\"']{3,4000}")
_SCHEMED: Final = re.compile(r"(?i:basic|bearer|digest|token|apikey)\s{1,2}[^\s\"',]{8,}")
_LONG: Final = re.compile(rf"(?!(?i:your|xxx|change|\.\.\.|\$)){_WORD_LIKE}{{8,}}+{_NO_CALL}")
_MIXED: Final = re.compile(
    rf"(?={_WORD_LIKE}{{0,80}}[0-9])(?={_WORD_LIKE}{{0,80}}[A-Za-z]){_WORD_LIKE}{{6,}}+{_NO_CALL}"
)


def words_of(name: str) -> str:
    """*name* in lower case, its words joined by underscores however they were joined."""
    return _WORD.sub("_", name).lower()


def is_secret_name(name: str, *, in_answer: bool = False) -> bool:
    """Whether a field called *name* holds a secret."""
    return len(name) <= _LONGEST_NAME and _is_secret_name(name, in_answer)


@lru_cache(maxsize=4096)
def _is_secret_name(name: str, in_answer: bool) -> bool:
    words = words_of(name)
    if in_answer and words in _NO_SECRET_IN_ANSWERS:
        return False
    parts = words.split("_")
    return any("_".join(parts[-count:]) in _NOUNS for count in (1, 2, 3)) or (
        len(parts) > 1 and parts[-1] == "key" and parts[-2] in _VENDORS
    )


def without_secrets(text: str) -> str:
    """*text* with each secret in it replaced by REDACTED."""
    text = _SECRETS.sub(_without_secret, text)
    pieces: list[str] = []
    end = 0
    for found in _NAMED.finditer(text):
        if found.start() >= end and is_secret_name(found["name"], in_answer=bool(found["quote"])):
            value = _value_after(found, text)
            if value is not None and text[slice(*value)] != REDACTED:
                pieces += (text[end : value[0]], REDACTED)
                end = value[1]
    return "".join((*pieces, text[end:])) if pieces else text


def _without_secret(found: "re.Match[str]") -> str:
    kept = next((found[name] for name in _KEPT if found[name]), "")
    return f"{kept}{REDACTED}"


def _value_after(found: "re.Match[str]", text: str) -> tuple[int, int] | None:
    """Where the secret is that the name and sign *found* stand before; None if it is none."""
    at, name, quote = found.end(), found["name"], found["quote"]
    if quote and quote == found["opening"] and found["sign"] == ":":
        if quote == '"':
            return _span(_FIELD_VALUE, text, at)
        end = text.find(quote, at, at + 2000)
        return (at, end if end >= 0 else min(len(text), at + 2000)) if end != at else None
    words = words_of(name)
    if words.endswith("cookie"):
        return _span(_COOKIES, text, at)
    if words.endswith("authorization"):
        return _span(_SCHEMED, text, at)
    if words.startswith("x_") or (name.isupper() and "_" in name):
        return _span(_LONG, text, at)
    return _span(_MIXED, text, at)


def _span(pattern: "re.Pattern[str]", text: str, at: int) -> tuple[int, int] | None:
    found = pattern.match(text, at)
    return None if found is None else found.span()
