"""What of OpenAI's interface is answered, by address."""

from __future__ import annotations

from starlette.routing import Route

from sinkserve.web.openai import models
from sinkserve.web.openai.chat import endpoint as chat
from sinkserve.web.openai.responses import conversations, stored
from sinkserve.web.openai.responses import endpoint as responses


def routes() -> list[Route]:
    """Routes below `/v1`."""
    return [
        Route("/v1/chat/completions", chat.create, methods=["POST"]),
        Route("/v1/responses", responses.create, methods=["POST"]),
        Route("/v1/responses/{response}", stored.get, methods=["GET"]),
        Route("/v1/responses/{response}", stored.delete, methods=["DELETE"]),
        Route("/v1/responses/{response}/input_items", stored.list_input, methods=["GET"]),
        Route("/v1/conversations", conversations.create, methods=["POST"]),
        Route("/v1/conversations/{conversation}", conversations.get, methods=["GET"]),
        Route("/v1/conversations/{conversation}", conversations.update, methods=["POST"]),
        Route("/v1/conversations/{conversation}", conversations.delete, methods=["DELETE"]),
        Route("/v1/models", models.list_models, methods=["GET"]),
        Route("/v1/models/{model:path}", models.get_model, methods=["GET"]),
    ]
