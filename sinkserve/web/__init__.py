"""One process that speaks HTTP: OpenAI's interface and the page, for callers of the runtime and the builder."""
