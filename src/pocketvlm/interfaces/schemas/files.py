"""This is the request of /v1/files/fetch."""

from __future__ import annotations

from pocketvlm.interfaces.fields import FILES
from pocketvlm.interfaces.schemas.common import Body


class FetchRequest(Body):
    """The address of an image, a video or a PDF file."""

    interface = FILES
    url: str
