"""One cache under every provider's SDK of a process: ``install``, ``uninstall`` and ``installed``.

``switch`` holds which cache is on. ``libraries`` patches the HTTP libraries, each in the methods in
which it meets the network: when it is imported, or at once if it is already. ``patching`` does that
for one method, and puts back the very same object. The replacements are in a module for each
library, such as ``under_httpx``: they ask the installation (``active``) whether a request is for a
model, and hand it to ``http.drive``. Every other request goes to the library's own method.
"""

from llm_cache_mem.installation.switch import install, installed, uninstall

__all__ = ["install", "installed", "uninstall"]
