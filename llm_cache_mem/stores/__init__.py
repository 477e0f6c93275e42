"""Where entries live: the Store protocol, its implementations, and how a URL becomes one."""
