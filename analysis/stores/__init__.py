"""Reads runs from an MLflow database or a tracking server. Both return the same values."""

from analysis.stores.store import Store


def store_at(uri: str) -> Store:
    """Returns the store at a URI: `http...` is a tracking server, any other URI a database."""
    if uri.startswith("http"):
        from analysis.stores.server import ServerStore

        return ServerStore(uri)
    from analysis.stores.sql import SqlStore

    return SqlStore(uri)
