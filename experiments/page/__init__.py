"""One page in HTML about results folders: it needs no network and no other file."""

from experiments.page.build import page, write_page
from experiments.page.payload import payload
from experiments.page.watch import server

__all__ = ["page", "payload", "server", "write_page"]
