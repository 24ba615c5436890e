"""OpenAI's interface: responses, conversations, chat completions and models, out of sessions and turns."""

from sinkserve.web.openai.routes import routes

__all__ = ["routes"]
