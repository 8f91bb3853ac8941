"""The pages: what people look at after they signed in with a token. Rendered on the server, no script anywhere."""

from registry.web.pages import error_page, http_error_page, unexpected_page
from registry.web.register import register

__all__ = ["error_page", "http_error_page", "register", "unexpected_page"]
