"""The page in the browser."""

from sinkserve.web.page.routes import routes

__all__ = ["routes"]
